"""The service: a bundle behind the Open Inference Protocol, by KServe's Python server."""
