"""Training of deep local features with attention (DELF), and their export."""
