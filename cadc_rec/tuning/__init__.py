"""Searches an experiment's settings on validation, within a budget of minutes."""
