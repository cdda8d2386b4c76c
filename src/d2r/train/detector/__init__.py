"""Training of landmark detectors."""
