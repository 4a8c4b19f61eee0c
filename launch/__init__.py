"""Launching cadc-rec with torchx."""
