"""The export chapter: the user tower and the ranker as ONNX, what int8 costs, and the serving bundle.

`runtime` and `bundle` are what serving reads, and never import torch.
"""
