"""Answers from a bundle: vectors, the nearest items, filters."""
