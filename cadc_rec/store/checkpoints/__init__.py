"""Unfinished training on disk: written while it goes on, whole or absent, read by any ranks."""
