"""Figures of ranking and calibration and their intervals, with numpy and scipy alone."""
