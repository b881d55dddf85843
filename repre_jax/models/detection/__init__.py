"""Mask R-CNN (arXiv 1703.06870) with fixed shapes: its geometry, its parts, the whole detector."""
