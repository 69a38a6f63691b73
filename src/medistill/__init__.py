"""Distil medical-image classifiers into compact students, and measure what was lost on the way."""

from medistill import telemetry

__version__ = "0.1.0"

telemetry.switch_off()  # here, so that telemetry is also off in a user's own script that imports any part of medistill
