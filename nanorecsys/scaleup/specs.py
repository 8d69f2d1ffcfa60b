"""Specifications of the scale-up chapter's indexes.

They are `Flat`, an index of another library (`scann:vectors=8`, `lorann:rank=64`, see
`nanorecsys.ann.specs`), or inverted lists: `IVF2048,SQ8`, `IVF,PQ64x4fsr,Refine(SQ8)`. Lists read
like strings of `faiss.index_factory`, with these differences:

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

from nanorecsys.ann.specs import BASELINE, CODE_VECTORS, PROJECTED, options
from nanorecsys.serving.errors import SpecificationError
from nanorecsys.serving.retrieval import library

# Indexes of the earlier benchmark, beside Flat. Its document names the types; lists and bytes are
# assumed.
ORIGINAL = ("IVF4096,PQ32np", "IVF2048,SQ8")
BESIDE_FAISS = ("scann:vectors=8", "lorann:rank=64,vectors=16")
OTHERS = {"scann": "ScaNN", "lorann": "LoRANN"}  # family of each other library
ITEMS_PER_LIST = 32  # at least, on average
MOST_LISTS = 4096
MOST_CODED_LISTS = 8192  # where centroids have codes, which are faster to look through
FEWEST_CODED_LISTS = 16  # fewer cannot train a code of four bits
MOST_PROBED = 256  # lists that a search visits, at most
FACTORS = (2, 4, 8, 12, 16, 20, 24, 32, 40, 48, 64)  # candidates to refine, times k
RERANKED = (100, 200, 300, 400, 600, 800, 1200)  # candidates that other libraries re-rank
_IVF = re.compile(
    rf"(?P<space>{PROJECTED.pattern})?IVF(?P<lists>\d*)(\((?P<coarse>PQ\d+x4fs,RFlat)\))?"
    r",(?P<code>SQ8|PQ\d+np|PQ\d+x4fsr?)(?P<refined>,Refine\(SQ8\))?"
)


@dataclass(frozen=True)
class ParsedSpecification:
    """The parts of a specification at one catalogue size.

    Args:
        factory: The whole specification, with the number of lists filled in.
        lists: Inverted lists, leaves or clusters; 0 for none.
        coarse_code: Code of the centroids, "" for none.
        code: Code of a vector in a list, "" for none.
        refined: Whether 8-bit codes of whole vectors re-rank the candidates.
    """

    factory: str
    lists: int = 0
    coarse_code: str = ""
    code: str = ""
    refined: bool = False

    @property
    def library(self) -> str:
        """Name of its library, such as `faiss`."""
        return library(self.factory)

    @property
    def family(self) -> str:
        """Name of the line in figures and of the group in tables."""
        if self.library in OTHERS:
            return OTHERS[self.library]
        if not self.lists:
            return BASELINE
        code = "SQ8" if self.code == "SQ8" else "PQ fast scan" if "x4fs" in self.code else "PQ"
        projected = PROJECTED.match(self.factory)
        name = f"{projected[1].lower()}' directions" if projected else "IVF"
        return f"{name}, {code}{', refined' if self.refined else ''}"


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
        SpecificationError: The specification is none of the forms above.
    """
    if specification == BASELINE:
        return ParsedSpecification(BASELINE)
    if library(specification) != "faiss":
        given = options(specification, n)
        written = ",".join(f"{name}={value}" for name, value in given.items())
        factory = f"{library(specification)}:{written}"
        return ParsedSpecification(factory, lists=next(iter(given.values())))
    found = _IVF.fullmatch(specification)
    if not found:
        raise SpecificationError(
            f"{specification!r} cannot be built block by block",
            "Write Flat, IVF2048,SQ8 or IVF,PQ64x4fsr,Refine(SQ8), scann:vectors=8 or lorann:.",
        )
    coded = found["coarse"] is not None
    lists = min(int(found["lists"]), most_lists(n)) if found["lists"] else lists_for(n, coded)
    coded = coded and lists >= FEWEST_CODED_LISTS
    coarse = f"({found['coarse']})" if coded else ""
    rest = specification[found.start("code") - 1 :]
    return ParsedSpecification(
        f"{found['space'] or ''}IVF{lists}{coarse}{rest}",
        lists=lists,
        coarse_code=found["coarse"] if coded else "",
        code=found["code"],
        refined=found["refined"] is not None,
    )


def in_users_directions(d: int) -> str:
    """Write the fastest index of FAISS here: lists and codes in six tenths of d directions.

    >>> in_users_directions(256)
    'Users152,IVF(PQ76x4fs,RFlat),PQ76x4fsr,Refine(SQ8)'
    """
    count = 8 * max(1, int(0.6 * d) // 8)
    return f"Users{count},IVF(PQ{count // 2}x4fs,RFlat),PQ{count // 2}x4fsr,Refine(SQ8)"


def families(specifications: Sequence[str], n: int, smallest: int) -> dict[str, str]:
    """Return the first specification of each family that the smallest catalogue can train.

    Args:
        specifications: Indexes of the chapter.
        n: Items of the largest catalogue.
        smallest: Items of the smallest one; 8-bit codes are trained on `CODE_VECTORS` at least.

    >>> list(families(["IVF,PQ32np", "IVF,SQ8", "IVF64,SQ8", "scann:"], 1_000, 60))
    ['IVF, SQ8', 'ScaNN']
    """
    found: dict[str, str] = {}
    for specification in specifications:
        parsed = parse_specification(specification, n)
        if smallest >= CODE_VECTORS or not parsed.code.endswith("np"):
            found.setdefault(parsed.family, specification)
    return found


def setting(parsed: ParsedSpecification, lists: int, candidates: int) -> str:
    """Write a search setting.

    Args:
        parsed: Specification.
        lists: Lists, leaves or clusters to search.
        candidates: Candidates that are re-ranked: a multiple of k for FAISS, else their number.

    >>> setting(parse_specification("IVF4,PQ8x4fs,Refine(SQ8)", 1000), 2, 8)
    'nprobe=2,k_factor_rf=8'
    """
    if parsed.library in OTHERS:
        return f"{parsed.factory.partition(':')[2].partition('=')[0]}={lists},rerank={candidates}"
    return f"nprobe={lists}" + (f",k_factor_rf={candidates}" if parsed.refined else "")


def widest_settings(parsed: ParsedSpecification, k: int, n: int) -> list[str]:
    """Return the settings that search most lists, one for each number of candidates.

    >>> widest_settings(parse_specification("IVF4,SQ8", 1000), 10, 1000)
    ['nprobe=4']
    """
    if parsed.factory == BASELINE:
        return [""]
    if parsed.library in OTHERS:
        candidates = [count for count in RERANKED if count <= n]
    else:
        candidates = [factor for factor in FACTORS if factor * k <= n] if parsed.refined else [0]
    return [setting(parsed, min(MOST_PROBED, parsed.lists), count) for count in candidates]
