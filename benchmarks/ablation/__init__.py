"""Ablations of the paper and beyond it: what was tried and lost."""
