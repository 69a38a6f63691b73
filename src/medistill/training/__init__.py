"""Training: one loop for teachers, baselines and distilled students."""
