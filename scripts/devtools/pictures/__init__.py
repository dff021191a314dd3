"""The pictures of a made-up host for the docs."""
