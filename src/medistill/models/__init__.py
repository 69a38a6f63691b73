"""Networks: which there are, how they are built, saved and loaded, and what they cost."""
