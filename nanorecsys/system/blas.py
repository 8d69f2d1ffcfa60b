"""FAISS, with matrix products in the widest instructions that the processor has; import it from here.

FAISS's wheel brings OpenBLAS 0.3.15, which knows processors by their model. Those younger than it,
every Xeon since Sapphire Rapids among them, it takes for a Prescott of 2004 and multiplies in SSE3:
a fifth of the speed or less in clustering, assigning and coding vectors, and in projecting a query
(OpenBLAS, issue 4267). Later versions go by what a processor can do (since 0.3.19, pull request
3485), and so does this one: by a variable of the environment, which it reads once, when it is
loaded. A value set by the user holds.
"""

import os
from collections.abc import Set

from nanorecsys.system.processor import processor

VARIABLE = "OPENBLAS_CORETYPE"
KERNELS = {  # of OpenBLAS 0.3.15, best first: what each needs
    "SkylakeX": frozenset({"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}),
    "Haswell": frozenset({"avx2", "fma"}),
}


def kernels(flags: Set[str]) -> str | None:
    """The kernels for a processor with these flags; None leaves the choice to OpenBLAS.

    >>> kernels({"fma", "avx2", "avx512f"})
    'Haswell'
    """
    return next((name for name, needed in KERNELS.items() if needed <= flags), None)


if chosen := kernels(processor()[1]):
    os.environ.setdefault(VARIABLE, chosen)

import faiss  # noqa: E402

__all__ = ["faiss"]
