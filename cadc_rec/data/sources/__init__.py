"""Sources: each turns one kind of raw input into the same `RawTables`."""
