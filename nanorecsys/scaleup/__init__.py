"""The scale-up chapter: synthetic catalogues of millions of items, and whether to believe them.

more = generate(item_vectors, 27_278)                                      # in memory
millions = write_catalogue("catalogue.npy", item_vectors, 3_000_000)       # in a file

The real items come first.
"""

from nanorecsys.scaleup.catalogue import generate, write_catalogue
from nanorecsys.scaleup.generators import GENERATORS
