"""The table of indexes: factory strings by family, and the search settings that each kind may try.

A specification is a string of `faiss.index_factory`, or `usearch:M32` (optionally
`usearch:M32,bf16` or `,i8`) for the other library's graph with M links an item. A search setting is
a string of `faiss.ParameterSpace`, `nprobe=16`, or of the names that it lacks: `search_L` (NSG),
`qb` (bits of a query in RaBitQ) and `ef` (usearch).

`Users128,` before a FAISS string projects vectors and queries to the 128 directions in which users'
vectors have most of their length, and rotates them there at random; the rest of the string searches
that space, except for a refinement, which reads whole vectors. A score depends on nothing of an
item but its part along the user's vector, so that a quantizer that knows where users are spends no
bits elsewhere. The directions are fitted on vectors of users who are not measured, see
`nanorecsys.ann.corpus.set_apart`; `Items128,` takes the items' own instead, as a control. (Guo et
al., 2020, https://arxiv.org/abs/1908.10396, fit a quantizer's loss to the scores instead.)
"""

import re
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from nanorecsys.ann.errors import AnnError, SettingError

Table = Literal["core", "all"]


class Specification(msgspec.Struct, frozen=True):
    """One index of the table. `core` ones stand for their family where there is no time for all."""

    factory: str
    family: str
    core: bool = False


BASELINE = "Flat"
USERS_FAMILY = "users' directions, PQ fast scan, refined"
PROJECTED = re.compile(r"(Users|Items)(\d+),")
OTHER = "as given"  # the family of a specification that is not in the table

# `np` skips the annealing of polysemous codes, which takes minutes and changes no recall.
TABLE = (
    Specification(BASELINE, "Flat", core=True),
    Specification("SQfp16", "scalar quantizer", core=True),
    Specification("SQ8", "scalar quantizer", core=True),
    Specification("SQ6", "scalar quantizer", core=True),
    Specification("SQ4", "scalar quantizer", core=True),
    Specification("IVF256,Flat", "IVF-Flat", core=True),
    Specification("IVF512,Flat", "IVF-Flat"),
    Specification("IVF256,SQ8", "IVF-SQ8", core=True),
    Specification("IVF512,SQ8", "IVF-SQ8"),
    Specification("IVF256,PQ32np", "IVF-PQ", core=True),
    Specification("IVF256,PQ64np", "IVF-PQ"),
    Specification("IVF512,PQ32np", "IVF-PQ"),
    Specification("IVF512,PQ64np", "IVF-PQ"),
    Specification("IVF1024,PQ32np", "IVF-PQ"),
    Specification("IVF1024,PQ64np", "IVF-PQ"),
    Specification("OPQ32,IVF256,PQ32np", "OPQ, IVF-PQ", core=True),
    Specification("OPQ64,IVF256,PQ64np", "OPQ, IVF-PQ"),
    Specification("PQ64x4fs,RFlat", "PQ fast scan, refined", core=True),
    Specification("PQ128x4fs,RFlat", "PQ fast scan, refined"),
    Specification("PQ128x4fs,Refine(SQ8)", "PQ fast scan, refined"),
    Specification("IVF256,PQ128x4fs,RFlat", "IVF-PQ fast scan, refined", core=True),
    Specification("IVF128,PQ128x4fs,RFlat", "IVF-PQ fast scan, refined"),
    Specification("IVF256,PQ64x4fs,RFlat", "IVF-PQ fast scan, refined"),
    Specification("IVF256,PQ128x4fs,Refine(SQ8)", "IVF-PQ fast scan, refined"),
    Specification("IVF128,PQ128x4fs,Refine(SQfp16)", "IVF-PQ fast scan, refined"),
    Specification("Users128,PQ128x4fs,Refine(SQfp16)", USERS_FAMILY),
    Specification("Users192,PQ192x4fs,Refine(SQfp16)", USERS_FAMILY),
    Specification("Users96,IVF128,PQ96x4fs,Refine(SQfp16)", USERS_FAMILY),
    Specification("Users128,IVF128,PQ128x4fs,Refine(SQfp16)", USERS_FAMILY, core=True),
    Specification("Users128,IVF128,PQ128x4fs,RFlat", USERS_FAMILY),
    Specification(
        "Items128,IVF128,PQ128x4fs,Refine(SQfp16)", "IVF-PQ fast scan, refined", core=True
    ),
    Specification("Users160,IVF64,PQ160x4fs,Refine(SQfp16)", USERS_FAMILY, core=True),
    Specification("RaBitQ,RFlat", "RaBitQ, refined", core=True),
    Specification("RaBitQ4", "RaBitQ, refined"),
    Specification("RaBitQfs,RFlat", "RaBitQ fast scan, refined", core=True),
    Specification("IVF256,RaBitQfs,RFlat", "RaBitQ fast scan, refined"),
    Specification("HNSW32", "HNSW", core=True),
    Specification("HNSW16", "HNSW"),
    Specification("HNSW32_SQ8", "HNSW-SQ", core=True),
    Specification("HNSW16_SQ8", "HNSW-SQ"),
    Specification("NSG32", "NSG", core=True),
    Specification("usearch:M16", "usearch", core=True),
    Specification("usearch:M32,bf16", "usearch"),
    Specification("usearch:M16,i8", "usearch"),
)
FAMILIES = tuple(dict.fromkeys(s.family for s in TABLE))

_PROBES = (1, 2, 4, 8, 16, 32, 64, 128)
_FACTORS = (1, 2, 3, 4, 6, 8, 12, 16)
# A beam narrower than the neighbours asked for is widened to them by the libraries.
_BEAMS = (100, 112, 128, 160, 192, 256, 384, 512)
# Candidates a list and lists together: along the diagonal, since either alone runs into the other's
# loss.
_PROBES_AND_FACTORS = ((8, 2), (16, 2), (24, 2), (32, 2), (32, 3), (32, 4), (64, 4), (128, 8))
# Each grid is in order from the cheapest setting to the dearest.
GRIDS: dict[str, tuple[str, ...]] = {
    "scan": ("",),
    "refined": tuple(f"k_factor_rf={f}" for f in _FACTORS),
    "ivf": tuple(f"nprobe={p}" for p in _PROBES),
    "ivf refined": tuple(f"nprobe={p},k_factor_rf={f}" for p, f in _PROBES_AND_FACTORS),
    "hnsw": tuple(f"efSearch={b}" for b in _BEAMS),
    "nsg": tuple(f"search_L={b}" for b in _BEAMS),
    "usearch": tuple(f"ef={b}" for b in _BEAMS),
}


def kind(factory: str) -> str:
    """Which of `GRIDS` a factory string searches by.

    >>> kind("OPQ64,IVF256,PQ64np"), kind("PQ64x4fs,RFlat"), kind("usearch:M32")
    ('ivf', 'refined', 'usearch')
    """
    if factory.startswith("usearch:"):
        return "usearch"
    refined = re.search(r",(RFlat|Refine\()", factory) is not None
    if lists(factory):
        return "ivf refined" if refined else "ivf"
    for name in ("HNSW", "NSG"):
        if name in factory:
            return name.lower()
    return "refined" if refined else "scan"


def lists(factory: str) -> int:
    """Inverted lists of a factory string, 0 if it has none.

    >>> lists("OPQ64,IVF1024,PQ64np"), lists("Flat")
    (1024, 0)
    """
    found = re.search(r"(?:^|,)IVF(\d+)", factory)
    return int(found[1]) if found else 0


def directions(factory: str) -> int:
    """Directions that a factory string projects to, 0 if it does not project.

    >>> directions("Users128,IVF256,PQ128x4fs,RFlat"), directions("IVF256,SQ8")
    (128, 0)
    """
    found = PROJECTED.match(factory)
    return int(found[2]) if found else 0


def needs_users(factory: str) -> bool:
    """Whether an index is built from users' vectors as well as items'.

    >>> needs_users("Users128,PQ128x4fs"), needs_users("PQ128x4fs")
    (True, False)
    """
    found = PROJECTED.match(factory)
    return found is not None and found[1] == "Users"


def settings(factory: str, points: int) -> tuple[str, ...]:
    """The search settings that a specification may try: at most `points`, evenly over its grid, the ends included.

    >>> settings("IVF64,SQ8", 3), settings("Flat", 8)
    (('nprobe=1', 'nprobe=8', 'nprobe=64'), ('',))
    """
    grid = GRIDS[kind(factory)]
    if count := lists(factory):  # more lists than there are would be the same search again
        grid = tuple(s for s in grid if int(re.match(r"nprobe=(\d+)", s)[1]) <= count) or (
            f"nprobe={count}",
        )
    if points >= len(grid):
        return grid
    if points == 1:
        return (grid[len(grid) // 2],)
    return tuple(grid[i] for i in np.linspace(0, len(grid) - 1, points).round().astype(int))


def choose(table: str = "core", specs: Sequence[str] = ()) -> tuple[Specification, ...]:
    """The specifications of a sweep: those given, or a table; Flat first in any case, since all is measured against it.

    Args:
        table: "core" or "all", read where `specs` is empty.
        specs: factory strings.

    Raises:
        AnnError: there is no such table, or a specification is no text.
    """
    if table not in ("core", "all"):
        raise AnnError(f"there is no table {table!r} of indexes", "Use core or all.")
    if not specs:
        return tuple(s for s in TABLE if s.core or table == "all")
    if wrong := [s for s in specs if not isinstance(s, str)]:
        raise AnnError(
            f"an index specification is text, not {wrong[0]!r}",
            'For example specs=["Flat", "IVF256,SQ8"].',
        )
    known = {s.factory: s for s in TABLE}
    return tuple(known.get(f, Specification(f, OTHER)) for f in dict.fromkeys((BASELINE, *specs)))


def parse_setting(search: str) -> dict[str, int]:
    """A search setting by name.

    >>> parse_setting("nprobe=16,k_factor_rf=4")
    {'nprobe': 16, 'k_factor_rf': 4}

    Raises:
        SettingError: it is not written `name=number`, with commas between.
    """
    found = re.findall(r"(\w+)=(\d+)", search)
    if ",".join(f"{name}={value}" for name, value in found) != search:
        raise SettingError(
            f"{search!r} is no search setting", "Write it like nprobe=16,k_factor_rf=4."
        )
    return {name: int(value) for name, value in found}
