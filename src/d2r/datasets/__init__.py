"""Data sets: readers, writers and downloads of pictures and their ground truth."""
