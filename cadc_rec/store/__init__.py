"""Artifacts and checkpoints on disk: committed whole or not at all, verified before use."""
