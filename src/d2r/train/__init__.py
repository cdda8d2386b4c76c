"""Training, and export of what was trained to ONNX; the only part that needs torch (the extra ``train``)."""
