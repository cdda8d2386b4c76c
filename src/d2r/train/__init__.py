"""Training, and export of trained networks to ONNX; the only package that needs torch (the extra ``train``)."""
