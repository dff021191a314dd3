"""rondo-serve: a store over HTTP, read-only. Live page, remote-read, /federate, /metrics, /health, /info."""
