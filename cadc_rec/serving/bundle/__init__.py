"""A bundle on disk: what it holds, who signed it, and that it still computes the same."""
