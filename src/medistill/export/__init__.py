"""From a trained network to a folder that a device can run: ONNX, its proofs, and what a user must know."""
