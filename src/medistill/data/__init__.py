"""Data: formats, splits, decoded shards, and the data set that every later stage reads."""
