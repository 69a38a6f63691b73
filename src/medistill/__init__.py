"""Distil medical-image classifiers into compact students, and prove that nothing was lost on the way."""

__version__ = "0.1.0"
