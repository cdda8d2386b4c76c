"""Training of a network that describes the patches at keypoints."""
