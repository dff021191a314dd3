"""Encodes batches as request bodies of remote-write 1.0 and 2.0."""

V1, V2 = "1.0", "2.0"
PROTOCOLS = (V1, V2)
