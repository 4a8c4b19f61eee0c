"""A user's own tables: which files they are, and their rows as typed columns or a named error."""
