"""The names of what the export chapter compares, as its tables and figures show them."""

TORCH_PADDED, TORCH, COMPILED = "torch, padded", "torch", "torch.compile"
INT8_PADDED, EXPORTED, FUSED = "int8, padded", "fp32, as exported", "fp32, fused"
INT8_TENSOR, INT8_CHANNEL, INT8_ROWS = "int8 by tensor", "int8 by channel", "int8 by row"
INT8_TABLE, INT8_STATIC, INT8_WEIGHTS = "int8, tables too", "int8 static", "int8 weights only"

VARIANTS = {
    TORCH_PADDED: "PyTorch, every history padded to the window, all layers at every position: the earlier benchmark's",
    TORCH: "PyTorch, no padding, the last layer at the last position only",
    COMPILED: "the same through torch.compile",
    INT8_PADDED: "the first one as ONNX (opset 18) with dynamic int8: the earlier benchmark's optimized one",
    EXPORTED: "the second one as ONNX, as PyTorch exports it (opset 23)",
    FUSED: "the same from ONNX Runtime's fused operators, the first layer's projections looked up",
    INT8_TENSOR: "fused, int8 products, a scale a matrix, activations quantized in the call",
    INT8_CHANNEL: "the same with a scale a column",
    INT8_ROWS: "the same, and a scale a position where activations have outliers, before a feed-forward's last product",
    INT8_TABLE: "by channel, and the tables in int8",
    INT8_STATIC: "by row, and all other scales of activations found beforehand: a history's vector knows no company",
    INT8_WEIGHTS: "fused, 8-bit weights in blocks of 32, products in int8",
}
# What the claims compare.
CORE = TORCH_PADDED, INT8_PADDED, EXPORTED, FUSED, INT8_CHANNEL, INT8_ROWS, INT8_STATIC

RANKER, RANKER_GATHERED, ORIGINAL_RANKER = (
    "items inside",
    "items gathered outside",
    "earlier benchmark's shape",
)
