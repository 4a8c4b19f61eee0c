"""The steps of training as tensors: made on the host, or on the device that trains."""
