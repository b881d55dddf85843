"""Fine-tuning of the whole network on labels."""
