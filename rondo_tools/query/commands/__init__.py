"""The commands of rondo-query, a module each: its help, its flags, what it does."""
