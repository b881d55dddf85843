"""What a pre-training step is made of, from config to update."""
