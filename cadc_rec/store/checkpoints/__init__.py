"""Checkpoints of unfinished training, which any number of processes can read."""
