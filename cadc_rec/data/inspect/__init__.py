"""Describes tables that have no configuration yet, and writes a configuration to start from."""
