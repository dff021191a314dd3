"""`top`: which VM does what, as a table that is renewed each second, or once."""
