"""From a trained network to a folder that a device can run: ONNX, parity, latency and a model card."""
