"""Annotation: draw at most one box per picture on a local web page, in the format of Google Landmark Boxes."""
