"""`top`: shows what each VM does, as a table that is updated every second, or once."""
