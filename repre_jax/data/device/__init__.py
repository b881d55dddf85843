"""What is done to images on the device, and how they get there."""
