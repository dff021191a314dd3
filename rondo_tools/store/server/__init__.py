"""rondo-store as a server: many streams at once, from sockets into the keeper."""
