"""Specifications of the scale-up chapter's indexes.

They are `Flat`, a graph (`HNSW32`), or inverted lists: `IVF2048,SQ8`, `IVF4096_HNSW32,PQ32np`,
`IVF,RaBitQfs,Refine(SQ8)`. They read like strings of `faiss.index_factory`, with these differences:

- `IVF` without a number has as many lists as `lists_for` says.
- No index has more lists than `ITEMS_PER_LIST` allows.
- `Users128,` or `Items128,` before inverted lists projects as in `nanorecsys.ann.specs`. Only the
  lists are projected; a refinement compares codes of whole vectors.
- `IVF8192(PQ64x4fs,RFlat),` looks for lists by codes of their centroids and re-ranks the best ones
  exactly.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nanorecsys.ann.errors import FactoryError
from nanorecsys.ann.specs import BASELINE, CODE_VECTORS, PROJECTED, needs_users

# Indexes of the earlier benchmark, beside Flat. Its document names the types; lists and bytes are
# assumed.
ORIGINAL = ("IVF4096,PQ32np", "IVF2048,SQ8")
ITEMS_PER_LIST = 32  # at least, on average
MOST_LISTS = 4096
MOST_CODED_LISTS = 8192  # where centroids have codes, which are faster to look through
FEWEST_CODED_LISTS = 16  # fewer cannot train a code of four bits
# Settings to try, from the cheapest to the most expensive one.
PROBES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 56, 64, 72, 80, 96, 112, 128, 192, 256)
FACTORS = (2, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64)  # candidates to refine, times k
BEAMS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_IVF = re.compile(
    rf"(?P<space>{PROJECTED.pattern})?IVF(?P<lists>\d*)"
    r"(?P<quantizer>_HNSW(?P<links>\d+)|\((?P<coarse>PQ\d+x4fs,RFlat)\))?"
    r",(?P<code>SQ8|PQ\d+np|PQ\d+x4fsr?|RaBitQ|RaBitQfs)(?P<refined>,Refine\(SQ8\))?"
)


@dataclass(frozen=True)
class ParsedSpecification:
    """The parts of a specification at one catalogue size.

    Args:
        factory: The whole specification, with the number of lists filled in.
        lists: Inverted lists, 0 for none.
        coarse_links: Links per centroid of a graph over the centroids, 0 for no graph.
        coarse_code: Code of the centroids, "" for none.
        code: Code of a vector in a list, "" for none.
        refined: Whether 8-bit codes of whole vectors re-rank the candidates.
        links: Links per item of a graph over the items, 0 for no graph.
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
        """The projection of the lists, such as `Users128`; "" for none."""
        found = PROJECTED.match(self.factory)
        return found[0].removesuffix(",") if found else ""

    @property
    def family(self) -> str:
        """Name of the line in figures and of the group in tables."""
        if self.links:
            return "HNSW"
        if not self.lists:
            return BASELINE
        code = {"SQ8": "SQ8", "RaBitQ": "RaBitQ", "RaBitQfs": "RaBitQ fast scan"}.get(self.code)
        code = code or ("PQ fast scan" if "x4fs" in self.code else "PQ")
        if self.space:
            whose = "users'" if needs_users(self.factory) else "items'"
            name = f"{whose} directions"
        else:
            name = "IVF-HNSW" if self.coarse_links else "IVF"
        return f"{name}, {code}{', refined' if self.refined else ''}"


def by_family(specifications: Sequence[str], n: int, smallest: int) -> dict[str, str]:
    """Return the first specification of each family that the smallest catalogue can train.

    Args:
        specifications: Indexes of the chapter.
        n: Items of the largest catalogue.
        smallest: Items of the smallest one; 8-bit codes are trained on `CODE_VECTORS` at least.

    >>> list(by_family(["IVF,PQ32np", "IVF,SQ8", "IVF64,SQ8"], 1_000, 60))
    ['IVF, SQ8']
    """
    found: dict[str, str] = {}
    for specification in specifications:
        parsed = parse_specification(specification, n)
        if smallest >= CODE_VECTORS or not parsed.code.endswith("np"):
            found.setdefault(parsed.family, specification)
    return found


def lists_for(n: int, coded: bool = False) -> int:
    """Return the number of lists: a multiple of the root of n, to the nearest power of two.

    The multiple is 4, up to `MOST_LISTS`; with codes of the centroids 8, up to `MOST_CODED_LISTS`.

    >>> lists_for(27_278), lists_for(3_000_000), lists_for(3_000_000, coded=True)
    (512, 4096, 8192)
    """
    wanted, most = (8, MOST_CODED_LISTS) if coded else (4, MOST_LISTS)
    power = 2 ** round(math.log2(max(wanted * n**0.5, 1)))
    return min(power, most_lists(n), most)


def most_lists(n: int) -> int:
    """Return the largest power of two of lists with `ITEMS_PER_LIST` items each.

    >>> most_lists(300_000), most_lists(3_000_000)
    (8192, 65536)
    """
    return 2 ** max(0, (n // ITEMS_PER_LIST).bit_length() - 1)


def parse_specification(specification: str, n: int) -> ParsedSpecification:
    """Parse a specification for a catalogue of n items.

    >>> parse_specification("IVF,PQ64x4fs,Refine(SQ8)", 100_000).factory
    'IVF1024,PQ64x4fs,Refine(SQ8)'

    Raises:
        FactoryError: The specification is none of the forms above.
    """
    if specification == BASELINE:
        return ParsedSpecification(BASELINE)
    if found := re.fullmatch(r"HNSW(\d+)", specification):
        return ParsedSpecification(specification, links=int(found[1]))
    found = _IVF.fullmatch(specification)
    if not found:
        raise FactoryError(
            f"{specification!r} cannot be built block by block",
            "Write Flat, HNSW32, or lists such as IVF2048,SQ8 or IVF_HNSW32,PQ64x4fs,Refine(SQ8).",
        )
    coded = found["coarse"] is not None
    lists = min(int(found["lists"]), most_lists(n)) if found["lists"] else lists_for(n, coded)
    coded = coded and lists >= FEWEST_CODED_LISTS
    quantizer = "" if found["coarse"] and not coded else found["quantizer"] or ""
    rest = specification[found.start("code") - 1 :]
    return ParsedSpecification(
        f"{found['space'] or ''}IVF{lists}{quantizer}{rest}",
        lists=lists,
        coarse_links=int(found["links"] or 0),
        coarse_code=found["coarse"] if coded else "",
        code=found["code"],
        refined=found["refined"] is not None,
    )


def search_grid(parsed: ParsedSpecification, k: int, n: int) -> list[str]:
    """Return the search settings that an index may try.

    >>> search_grid(parse_specification("IVF4,SQ8", 1000), 10, 1000)
    ['nprobe=1', 'nprobe=2', 'nprobe=4']
    """
    if parsed.factory == BASELINE:
        return [""]
    if parsed.links:
        return [f"efSearch={beam}" for beam in BEAMS]
    found = []
    for nprobe in PROBES:
        if nprobe <= parsed.lists:
            setting = f"nprobe={nprobe}"
            if parsed.coarse_links:
                setting += f",quantizer_efSearch={max(16, 2 * nprobe)}"
            found.append(setting)
    if not parsed.refined:
        return found
    factors = [factor for factor in FACTORS if factor * k <= n]
    return [f"{setting},k_factor_rf={factor}" for setting in found for factor in factors]
