"""SETR: an encoder trained, or frozen, under a head that gives every pixel a class."""
