"""rondo-serve, a store over HTTP, read-only: live page, remote-read, /federate, /metrics, /health, /info."""
