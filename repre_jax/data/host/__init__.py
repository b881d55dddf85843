"""What is done to images on the host: crops and 8-bit operators."""
