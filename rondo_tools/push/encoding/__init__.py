"""Remote-write on the wire: batches as request bodies, in versions 1.0 and 2.0."""
