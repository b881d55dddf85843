"""Encoders of other libraries and ours: files, names, shapes; nothing here trains or evaluates."""
