"""How models answer when images change: shifts of the test images, and images of other kinds."""
