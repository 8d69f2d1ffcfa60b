"""The indexes of the scale-up chapter, as text.

Like `faiss.index_factory`, with three liberties: `IVF` without a number takes its lists by the rule
`lists_for`, no index gets more lists than `ITEMS_PER_LIST` allows, and `Users128,` or `Items128,`
before inverted lists projects as in `nanorecsys.ann.specs`. They are inverted lists (`IVF2048,SQ8`,
`IVF4096_HNSW32,PQ32np`, `IVF,RaBitQfs,Refine(SQ8)`), a graph (`HNSW32`), or `Flat`.
`IVF8192(PQ64x4fs,RFlat),` looks for lists by codes of their centroids, the best of which are
compared again. A refinement compares codes of whole vectors, projected lists or not.
"""

import math
import re
from dataclasses import dataclass

from nanorecsys.ann.errors import FactoryError
from nanorecsys.ann.specs import BASELINE, PROJECTED, needs_users

ORIGINAL = ("IVF4096,PQ32np", "IVF2048,SQ8")  # those of the earlier benchmark, beside Flat
ITEMS_PER_LIST = 32  # at least, on average
MOST_LISTS = 4096
MOST_CODED_LISTS = 8192  # where centroids have codes: they are looked through in less time
COARSE_LINKS = 32
_IVF = re.compile(
    rf"(?P<space>{PROJECTED.pattern})?IVF(?P<lists>\d*)"
    r"(?P<quantizer>_HNSW(?P<links>\d+)|\((?P<coarse>PQ\d+x4fs,RFlat)\))?"
    r",(?P<code>SQ8|PQ\d+np|PQ\d+x4fsr?|RaBitQ|RaBitQfs)(?P<refined>,Refine\(SQ8\))?"
)


@dataclass(frozen=True)
class Parts:
    """What a specification is made of, at one size.

    Args:
        factory: the whole, lists filled in.
        lists: inverted lists, 0 for none.
        coarse_links: of a graph over their centroids, 0 for none.
        coarse_code: of the centroids, "" for none; a scan of them where there is no graph either.
        code: of a vector in a list; "" for none.
        refined: whether the best are compared again by an 8-bit code.
        links: of a graph over the items, 0 for none.
    """

    factory: str
    lists: int = 0
    coarse_links: int = 0
    coarse_code: str = ""
    code: str = ""
    refined: bool = False
    links: int = 0

    @property
    def space(self) -> str:
        """What the lists are projected to, `Users128` for example, "" for nothing."""
        found = PROJECTED.match(self.factory)
        return found[0].removesuffix(",") if found else ""

    @property
    def family(self) -> str:
        """What is drawn as one line."""
        if self.links:
            return "HNSW"
        if not self.lists:
            return BASELINE
        code = {"SQ8": "SQ8", "RaBitQ": "RaBitQ", "RaBitQfs": "RaBitQ fast scan"}.get(self.code)
        code = code or ("PQ fast scan" if "x4fs" in self.code else "PQ")
        if self.space:
            whose = "users'" if needs_users(self.factory) else "items'"
            return f"{whose} directions, {code}{', refined' if self.refined else ''}"
        return f"IVF{'-HNSW' if self.coarse_links else ''}, {code}{', refined' if self.refined else ''}"


def lists_for(n: int, coded: bool = False) -> int:
    """Four times the root of n, to the nearest power of two, at most `MOST_LISTS`.

    Args:
        n: items.
        coded: centroids are looked through by their codes: eight times the root, at most
            `MOST_CODED_LISTS`.

    >>> lists_for(27_278), lists_for(1_000_000), lists_for(3_000_000), lists_for(3_000_000, coded=True)
    (512, 4096, 4096, 8192)
    """
    wanted, most = (8, MOST_CODED_LISTS) if coded else (4, MOST_LISTS)
    return min(_power(wanted * n**0.5), most_lists(n), most)


def most_lists(n: int) -> int:
    """The largest power of two of lists that have `ITEMS_PER_LIST` items each.

    >>> most_lists(300_000), most_lists(3_000_000)
    (8192, 65536)
    """
    return 2 ** max(0, (n // ITEMS_PER_LIST).bit_length() - 1)


def parts(specification: str, n: int) -> Parts:
    """Take a specification apart, for a catalogue of n items.

    >>> parts("IVF,PQ64x4fs,Refine(SQ8)", 100_000).factory
    'IVF1024,PQ64x4fs,Refine(SQ8)'

    Raises:
        FactoryError: it is not written so.
    """
    if specification == BASELINE:
        return Parts(BASELINE)
    if found := re.fullmatch(r"HNSW(\d+)", specification):
        return Parts(specification, links=int(found[1]))
    found = _IVF.fullmatch(specification)
    if not found:
        raise FactoryError(
            f"{specification!r} cannot be built from shards",
            "Write Flat, HNSW32, or inverted lists such as IVF2048,SQ8 or IVF_HNSW32,PQ64x4fs,Refine(SQ8).",
        )
    coded = found["coarse"] is not None
    lists = min(int(found["lists"]), most_lists(n)) if found["lists"] else lists_for(n, coded)
    rest = specification[found.start("code") - 1 :]
    return Parts(
        f"{found['space'] or ''}IVF{lists}{found['quantizer'] or ''}{rest}",
        lists=lists,
        coarse_links=int(found["links"] or 0),
        coarse_code=found["coarse"] or "",
        code=found["code"],
        refined=found["refined"] is not None,
    )


def _power(x: float) -> int:
    return 2 ** round(math.log2(max(x, 1)))
