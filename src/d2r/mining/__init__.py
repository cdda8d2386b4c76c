"""Comparisons among the pictures of an index: groups, near-duplicates and pairs."""
