"""Spatial verification: local features of two pictures matched under one affine transform."""
