"""Composed benchmarks and scenes: real things planted in real photographs, with known answers."""
