"""Rows for ids that come and go: a map of a fixed size, and who waits for a row of it."""
