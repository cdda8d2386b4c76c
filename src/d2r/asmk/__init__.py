"""Visual words, the kernels of the paper, pooling and codes."""
