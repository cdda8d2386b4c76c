"""Composed benchmarks and scenes: real objects planted in real photographs, with known answers."""
