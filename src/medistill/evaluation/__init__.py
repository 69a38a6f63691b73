"""How good a model is, how sure that is, and how it compares with others."""
