"""What surrounds every training: folder, checkpoints, logs, the loop."""
