"""How good a model is, how sure that is, and whether it may pass: metrics, intervals, comparisons, gate and report."""
