"""Instance-level image search with regions: Detect-to-Retrieve, R-ASMK* and an inverted index."""
