"""One image from file to frame, by the same code in training and on the device."""
