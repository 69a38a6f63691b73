"""What may be wrong with a data set although every file can be read: copies of an image, and unknown groups."""
