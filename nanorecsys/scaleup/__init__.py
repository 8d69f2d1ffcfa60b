"""The scale-up chapter: synthetic catalogues of millions of items, and whether they can be believed.

more = generate(item_vectors, 27_278)                                  # in memory; the real items
come first millions = write_catalogue("catalogue.npy", item_vectors, 3_000_000)   # in a file, taken
up again after a kill
"""

from nanorecsys.scaleup.errors import (
    DiskSpaceError,
    OtherRunError,
    ScaleupError,
    UnknownGeneratorError,
    VectorsError,
)
from nanorecsys.scaleup.generators import GENERATORS, Fitted, Generator
from nanorecsys.scaleup.shards import generate, write_catalogue

__all__ = [
    "GENERATORS",
    "DiskSpaceError",
    "Fitted",
    "Generator",
    "OtherRunError",
    "ScaleupError",
    "UnknownGeneratorError",
    "VectorsError",
    "generate",
    "write_catalogue",
]
