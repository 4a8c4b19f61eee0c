"""A user's own tables: from files of any common format to typed columns, or an error by line."""
