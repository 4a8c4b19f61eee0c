"""Manifests for Kubernetes, made of the same components as torchx's requests."""
