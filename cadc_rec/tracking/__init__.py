"""The curves of a training run, for TensorBoard and MLflow."""
