"""FAISS, with matrix products in the widest instructions of the processor; import it from here.

FAISS's wheel contains OpenBLAS 0.3.15, which recognises processors by their model. It takes newer
ones, such as every Xeon since Sapphire Rapids, for a Prescott of 2004 and multiplies with SSE3:
clustering, assigning and coding vectors, and projecting a query run at a fifth of the speed or less
(OpenBLAS, issue 4267). Later versions look at the instruction sets (since 0.3.19, pull request
3485). For this version, an environment variable names the kernels; OpenBLAS reads it once, when it
is loaded. A value set by the user has precedence.
"""

import os
from collections.abc import Set

from nanorecsys.system.processor import processor

VARIABLE = "OPENBLAS_CORETYPE"
# The flags that each kernel of OpenBLAS 0.3.15 needs, fastest first.
KERNELS = {
    "SkylakeX": frozenset({"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}),
    "Haswell": frozenset({"avx2", "fma"}),
}


def kernels(flags: Set[str]) -> str | None:
    """Name of the fastest kernels for these processor flags; None: OpenBLAS chooses.

    >>> kernels({"fma", "avx2", "avx512f"})
    'Haswell'
    """
    return next((name for name, needed in KERNELS.items() if needed <= flags), None)


if chosen := kernels(processor()[1]):
    os.environ.setdefault(VARIABLE, chosen)

import faiss  # noqa: E402

__all__ = ["faiss"]
