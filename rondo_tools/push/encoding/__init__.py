"""Remote-write on the wire: batches as request bodies, in versions 1.0 and 2.0."""

V1, V2 = "1.0", "2.0"
PROTOCOLS = (V1, V2)
