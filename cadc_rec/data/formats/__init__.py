"""The formats of a user's tables: each reads its files as the same `Scan`."""
