"""The built-in data set: chest X-rays that are drawn."""
