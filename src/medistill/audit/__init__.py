"""Faults of a data set whose files can all be read: copies of images, unknown groups, shortcuts, broken rules."""
