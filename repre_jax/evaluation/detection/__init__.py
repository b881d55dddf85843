"""Detection and segmentation of objects by a Mask R-CNN on the encoder."""
