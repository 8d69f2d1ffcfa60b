"""The export chapter: the user tower and the ranker as ONNX, and what int8 costs and saves."""
