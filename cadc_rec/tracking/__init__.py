"""The curves of a training run, for TensorBoard, MLflow and trackio."""
