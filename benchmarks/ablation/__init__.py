"""Ablations of the paper and additions to it, with those that lost."""
