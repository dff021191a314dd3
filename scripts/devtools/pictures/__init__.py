"""The pictures of the docs, of a host that is made up."""
