"""Classes of pixels: how they are counted, read and drawn; dense k-NN, linear probe, SETR."""
