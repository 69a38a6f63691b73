"""Distillation: losses, cached teacher answers, and the objective of a recipe."""
