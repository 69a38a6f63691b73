"""Distil medical-image classifiers into compact students, and prove that nothing was lost on the way."""

from medistill import telemetry

__version__ = "0.1.0"

telemetry.switch_off()  # here, so that a script of a user's own that imports any part of medistill is silent, too
