"""A user tower in PyTorch, as an engineer would serve it, behind the call of an ONNX session.

With `UserEncoder` a batch is as wide as its longest history, and the last layer is computed at the
last position only. `EveryPosition` is the earlier benchmark's tower.
"""

import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

# Batches that a compiled module is warmed up with. PyTorch compiles a batch of one apart from
# larger ones, and takes two sizes for one if they are equal.
WARM_UP = ((1, 3), (2, 3))


class TorchEncoder:
    """A PyTorch module as a function of NumPy arrays: `encoder(items, lengths)`.

    Args:
        module: `UserEncoder` or `EveryPosition`.
        threads: Number of threads per operator.
        compiled: Whether to compile the module, once for all lengths and batches. It stays eager
            where that does not work, see `why_eager`.

    Attributes:
        compile_s: Seconds that compiling took, 0 if the module stays eager.
        why_eager: Reason why it was not compiled as asked for, "" otherwise.
    """

    def __init__(self, module: nn.Module, threads: int = 1, *, compiled: bool = False) -> None:
        self.threads = threads
        self.compile_s, self.why_eager = 0.0, ""
        self._eager = module.eval()
        self._run: Callable[..., torch.Tensor] = self._eager
        if compiled:
            self._compile()

    def __call__(self, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Encode histories as users' vectors, float32 (B, d), on the calling thread.

        Args:
            items: int64 (B, L), L at most the window; vocabulary numbers, padded as by
                `serving.padding.padded`.
            lengths: int64 (B,), at least 1.
        """
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        if self.compile_s and items.shape[1] == 1:
            # A length of one would be compiled apart. What is beyond a length has no effect.
            items = np.pad(items, ((0, 0), (0, 1)))
        with torch.inference_mode():
            return self._run(torch.from_numpy(items), torch.from_numpy(lengths)).numpy()

    def _compile(self) -> None:
        self.why_eager = missing_compiler()
        if self.why_eager:
            return
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch deprecates parts that its compiler uses
                self._run = torch.compile(self._eager, dynamic=True)
                for batch, length in WARM_UP:
                    self(np.ones((batch, length), np.int64), np.full(batch, length))
        except RuntimeError as error:  # the base of what Dynamo and Inductor raise
            self._run = self._eager
            self.why_eager = f"torch.compile failed: {str(error).strip().partition(chr(10))[0]}"
        else:
            self.compile_s = time.perf_counter() - start


def missing_compiler() -> str:
    """Say which C++ compiler `torch.compile` lacks on this machine, "" if it has one."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return "" if shutil.which(compiler) else f"torch.compile needs the C++ compiler {compiler}"
