"""Prediction on the device: numpy, Pillow and ONNX Runtime, no torch."""
