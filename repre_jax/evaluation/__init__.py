"""What frozen features are worth; knows encoders, never methods."""
