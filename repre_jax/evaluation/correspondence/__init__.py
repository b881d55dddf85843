"""Labels of a first frame, carried through a video by features alone."""
