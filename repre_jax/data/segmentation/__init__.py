"""Images with a class for every pixel."""
