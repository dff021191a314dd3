"""Remote-write's messages: the .proto files are ours, `scripts/build_proto.py` generates the code."""
