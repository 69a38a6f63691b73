"""Figures of models with intervals, and differences between models."""
