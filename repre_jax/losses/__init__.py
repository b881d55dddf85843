"""Pure losses: arrays in, one float32 value per example out."""
