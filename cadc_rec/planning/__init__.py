"""Sharding plans on paper: what an experiment needs of any number of processes."""
