"""The commands of rondo-query, one module each, with its help and flags."""
