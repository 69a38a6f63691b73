"""Explanations: Grad-CAM, measured against boxes, and a gallery to look at."""
