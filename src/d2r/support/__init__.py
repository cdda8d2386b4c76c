"""Helpers for all other packages: files, downloads, processes, memory, the registry."""
