"""The table of indexes: factory strings by family, and the search settings of each kind.

A specification is a string of `faiss.index_factory`, or names another library. A search setting is
a string of `faiss.ParameterSpace` such as `nprobe=16`, or has the other library's two names.

`scann:leaves=128,block=2,vectors=32` is a tree of ScaNN (Guo et al., 2020,
https://arxiv.org/abs/1908.10396): leaves, dimensions per code, and bits per number of the vectors
that candidates are compared by: 32, 16 or 8. It is searched with `leaves=25,rerank=320`.

`lorann:clusters=128,dims=96,rank=32,bits=8,vectors=32` is an index of LoRANN (Jaasaari et al.,
2024, https://arxiv.org/abs/2410.18926): clusters, dimensions that queries are reduced to, rank and
bits of each cluster's matrices, and bits per number of the vectors, 32 or 16. It is searched with
`clusters=32,rerank=350`. Every option of the two may be left out; the number of leaves or clusters
then follows the number of vectors.

`Users128,` before a FAISS string projects vectors and queries to the 128 directions that hold most
of the squared length of users' vectors, and rotates them at random within that space. The rest of
the string searches the projected vectors; only a refinement reads whole ones. A score depends only
on the part of an item along the user's vector, so a quantizer that knows where users are spends no
bits elsewhere. The directions are fitted on users who are not measured, see
`nanorecsys.ann.corpus.split_users`. `Items128,` uses the items' own directions as a control.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from nanorecsys.ann.errors import AnnError
from nanorecsys.serving.errors import SpecificationError
from nanorecsys.serving.retrieval import library, parse_setting


class Specification(msgspec.Struct, frozen=True):
    """One index of the table. Short runs measure only the `core` indexes of each family."""

    factory: str
    family: str
    core: bool = False


class Scann(msgspec.Struct, forbid_unknown_fields=True):
    """Options of ScaNN; 0 leaves follow the number of vectors."""

    leaves: int = 0
    block: int = 2
    vectors: Literal[32, 16, 8] = 32

    def fit(self, n: int) -> None:
        """Choose the number of leaves for n vectors: about their root."""
        self.leaves = self.leaves or 2 ** round(math.log2(n) / 2)


class Lorann(msgspec.Struct, forbid_unknown_fields=True):
    """Options of LoRANN; 0 clusters follow the number of vectors."""

    clusters: int = 0
    dims: int = 128
    rank: Literal[32, 16, 64] = 32
    bits: Literal[8, 4] = 8
    vectors: Literal[32, 16] = 32

    def fit(self, n: int) -> None:
        """Choose the number of clusters for n vectors: about one for 256 of them."""
        most = max(1, min(n // 256, MOST_CLUSTERS))
        self.clusters = self.clusters or 2 ** round(math.log2(most))


# Options by library; the first one is the number of parts, some of which are searched.
OPTIONS: dict[str, Any] = {"scann": Scann, "lorann": Lorann}
BASELINE = "Flat"
USERS_FAMILY = "users' directions, PQ fast scan, refined"
FEWEST_PER_LIST = 8  # items per list on average, in an index that is served
CODE_VECTORS = 256  # at least, to train the codes of a product quantizer with 8 bits
PROJECTED = re.compile(r"(Users|Items)([1-9]\d*),")
OTHER = "as given"  # family of a specification that is not in the table

# `np` skips the annealing of polysemous codes: it takes minutes and does not change recall.
TABLE = (
    Specification(BASELINE, "Flat", core=True),
    Specification("SQfp16", "scalar quantizer", core=True),
    Specification("SQ8", "scalar quantizer", core=True),
    Specification("IVF256,Flat", "IVF-Flat", core=True),
    Specification("IVF256,SQ8", "IVF-SQ8", core=True),
    Specification("IVF256,PQ32np", "IVF-PQ", core=True),
    Specification("IVF512,PQ64np", "IVF-PQ"),
    Specification("PQ64x4fs,RFlat", "PQ fast scan, refined", core=True),
    Specification("PQ128x4fs,RFlat", "PQ fast scan, refined"),
    Specification("IVF256,PQ128x4fs,RFlat", "IVF-PQ fast scan, refined", core=True),
    Specification("IVF128,PQ128x4fs,RFlat", "IVF-PQ fast scan, refined"),
    Specification("IVF128,PQ128x4fs,Refine(SQfp16)", "IVF-PQ fast scan, refined"),
    Specification("Users96,IVF128,PQ96x4fs,Refine(SQfp16)", USERS_FAMILY),
    Specification("Users128,IVF128,PQ128x4fs,Refine(SQfp16)", USERS_FAMILY, core=True),
    Specification("Users128,IVF128,PQ128x4fs,RFlat", USERS_FAMILY),
    Specification(
        "Items128,IVF128,PQ128x4fs,Refine(SQfp16)", "IVF-PQ fast scan, refined", core=True
    ),
    Specification("Users160,IVF64,PQ160x4fs,Refine(SQfp16)", USERS_FAMILY, core=True),
    Specification("RaBitQfs,RFlat", "RaBitQ fast scan, refined", core=True),
    Specification("IVF256,RaBitQfs,RFlat", "RaBitQ fast scan, refined"),
    Specification("HNSW32", "HNSW", core=True),
    Specification("HNSW32_SQ8", "HNSW-SQ", core=True),
    Specification("scann:leaves=128", "ScaNN", core=True),
    Specification("scann:leaves=256", "ScaNN"),
    Specification("lorann:clusters=128,dims=96", "LoRANN", core=True),
    Specification("lorann:clusters=128,rank=64", "LoRANN"),
    Specification("lorann:clusters=64,rank=64", "LoRANN", core=True),
    Specification("lorann:clusters=128,dims=96,vectors=16", "LoRANN"),
)

_PROBES = (1, 2, 4, 8, 16, 32, 64, 128)
_FACTORS = (1, 2, 3, 4, 6, 8, 12, 16)
MOST_CLUSTERS = 4096  # more would double the time of a build at three million vectors
# Shares of the leaves or clusters that are searched, and candidates compared exactly with each.
_SHARES = (0.06, 0.1, 0.15, 0.2, 0.25, 0.3, 0.36, 0.43, 0.5, 0.6, 0.75, 0.9)
_CANDIDATES = (200, 250, 300, 350, 400, 450, 500, 600, 700, 800, 1000, 1300)
# FAISS widens a beam that is narrower than k.
_BEAMS = (100, 112, 128, 160, 192, 256, 384, 512)
# Both grow together, since the smaller one limits the recall.
_PROBES_AND_FACTORS = ((8, 2), (16, 2), (24, 2), (32, 2), (32, 3), (32, 4), (64, 4), (128, 8))


def grid(factory: str, n: int = 1) -> list[str]:
    """Return search settings of a specification for n vectors, from the cheapest to the dearest.

    >>> grid("IVF4,PQ64np"), grid("Flat")
    (['nprobe=1', 'nprobe=2', 'nprobe=4'], [''])
    """
    if library(factory) in OPTIONS:
        part, count = next(iter(options(factory, n).items()))
        return [
            f"{part}={math.ceil(share * count)},rerank={candidates}"
            for share, candidates in zip(_SHARES, _CANDIDATES, strict=True)
        ]
    refined = re.search(r",(RFlat|Refine\()", factory)
    count = lists(factory)
    if count and refined:
        pairs = [(probes, f) for probes, f in _PROBES_AND_FACTORS if probes <= count]
        return [f"nprobe={p},k_factor_rf={f}" for p, f in pairs] or [f"nprobe={count}"]
    if count:
        return [f"nprobe={probes}" for probes in _PROBES if probes <= count]
    if "HNSW" in factory:
        return [f"efSearch={beam}" for beam in _BEAMS]
    return [f"k_factor_rf={f}" for f in _FACTORS] if refined else [""]


def lists(factory: str) -> int:
    """Number of inverted lists of a factory string, 0 if it has none.

    >>> lists("Users128,IVF1024,PQ64np"), lists("Flat")
    (1024, 0)
    """
    found = re.search(r"(?:^|,)IVF(\d+)", factory)
    return int(found[1]) if found else 0


def fitted(factory: str, search: str, n: int) -> tuple[str, str]:
    """A specification and its search setting as they fit a catalogue of n vectors.

    A small catalogue gets fewer lists. It gets exact search where its codes cannot be trained or
    another library would have too many parts.

    >>> fitted("IVF256,SQ8", "nprobe=64", 400), fitted("IVF256,PQ64np", "nprobe=8", 60)
    (('IVF50,SQ8', 'nprobe=50'), ('Flat', ''))
    """
    most = max(1, n // FEWEST_PER_LIST)
    if library(factory) != "faiss":
        parts = next(iter(options(factory, n).values()))
        return (factory, search) if parts <= most else (BASELINE, "")
    if n < CODE_VECTORS and re.search(r"PQ\d+(?!\d|x4)", factory):
        return BASELINE, ""
    count = lists(factory)
    if count <= most:
        return factory, search
    setting = re.sub(r"nprobe=(\d+)", lambda probes: f"nprobe={min(int(probes[1]), most)}", search)
    return factory.replace(f"IVF{count}", f"IVF{most}"), setting


def options(factory: str, n: int) -> dict[str, int]:
    """Return all options of a specification of another library for n vectors.

    A number of parts that is left out is a power of two.

    >>> options("scann:", 27_278)
    {'leaves': 128, 'block': 2, 'vectors': 32}
    >>> options("lorann:dims=96", 3_000_000)["clusters"]
    4096

    Raises:
        SpecificationError: There is no such library or option, or the option has no such value.
        SettingError: The options are not a comma-separated list of `name=number`.
    """
    name = library(factory)
    if name not in OPTIONS:
        raise SpecificationError(f"{factory}: no library {name!r}", f"Use {' or '.join(OPTIONS)}.")
    try:
        given = msgspec.convert(parse_setting(factory.partition(":")[2]), OPTIONS[name])
    except msgspec.ValidationError as error:
        remedy = "Write it like scann:leaves=128."
        raise SpecificationError(f"{factory}: {error}", remedy) from error
    given.fit(n)
    return msgspec.structs.asdict(given)


def search_settings(factory: str, points: int, n: int = 1) -> tuple[str, ...]:
    """Pick at most `points` search settings evenly from a grid for n vectors, both ends included.

    >>> search_settings("IVF64,SQ8", 3), search_settings("Flat", 8)
    (('nprobe=1', 'nprobe=8', 'nprobe=64'), ('',))
    >>> search_settings("scann:leaves=128", 2)
    ('leaves=8,rerank=200', 'leaves=116,rerank=1300')
    """
    settings = grid(factory, n)
    if points == 1:
        return (settings[len(settings) // 2],)
    chosen = np.linspace(0, len(settings) - 1, min(points, len(settings)))
    return tuple(settings[i] for i in chosen.round().astype(int))


def choose(table: str = "core", specs: Sequence[str] = ()) -> tuple[Specification, ...]:
    """Return the given specifications or those of a table, with Flat, the baseline, first.

    Args:
        table: "core" or "all"; used if `specs` is empty.
        specs: Factory strings.

    Raises:
        AnnError: The table does not exist.
    """
    if table not in ("core", "all"):
        raise AnnError(f"there is no table {table!r} of indexes", "Use core or all.")
    if not specs:
        return tuple(s for s in TABLE if s.core or table == "all")
    known = {s.factory: s for s in TABLE}
    chosen = dict.fromkeys((BASELINE, *map(str, specs)))
    return tuple(known.get(factory, Specification(factory, OTHER)) for factory in chosen)
