"""Measure indexes over the first n items of one catalogue, each in child processes of its own.

tried = CatalogueBench(folder, "recombined", path, queries, exact, limits)
row = tried.measure("IVF2048,SQ8", 300_000)
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nanorecsys.ann.bench import build, in_child
from nanorecsys.ann.errors import CrashError, Failure, SpecificationError
from nanorecsys.ann.exact import Exact
from nanorecsys.ann.limits import MIB, Limits
from nanorecsys.ann.specs import BASELINE
from nanorecsys.scaleup.build import (
    TrainingOptions,
    assign_lists,
    build_graph,
    build_lists,
    check_buildable,
)
from nanorecsys.scaleup.catalogue import CatalogueFile
from nanorecsys.scaleup.search import SearchOptions, open_flat, search_at_floor
from nanorecsys.scaleup.specs import ParsedSpecification, parse_specification, search_grid
from nanorecsys.serving.retrieval import load_index

FLAT_QUERIES = 20  # a round of exact search of the largest catalogue takes some seconds
# FAISS's memory is in large pages, as numpy's arrays are: lists and codes lie all over it, and each
# small page would cost a look-up.
VARIABLES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
GIB = 2**30


class CatalogueBench:
    """One catalogue at several sizes.

    `failures` are the indexes that could not be built or searched, `rows` the raw rows of the
    others: accuracy and latency, see `search_at_floor`, with generator, n and factory.
    """

    def __init__(
        self,
        folder: Path,
        generator: str,
        catalogue: Path,
        queries: np.ndarray,
        exact: dict[int, Exact],
        limits: Limits,
        options: SearchOptions,
        training: TrainingOptions,
        memory_gib: float = 8.0,
        users: np.ndarray | None = None,
    ) -> None:
        """Prepare a bench.

        Args:
            folder: Folder of the indexes. Those of a killed run are used.
            generator: Generator of the catalogue.
            catalogue: .npy of unit float32 (N, d).
            queries: float32 (q, d).
            exact: Exact neighbours by size, see `exact_prefixes`.
            limits: Limits of the machine.
            options: How settings are chosen and timed.
            training: Bounds of the builds.
            memory_gib: Memory for exact search; it maps the vectors if they need more.
            users: Unit float32 (u, d), other users that projections are fitted on.
        """
        self.folder, self.generator, self.catalogue = folder, generator, catalogue
        self.queries, self.exact, self.users = queries, exact, users
        self.limits, self.options, self.training = limits, options, training
        self.memory_gib = memory_gib
        self.failures: list[Failure] = []
        self.rows: dict[str, list[pd.DataFrame]] = {"accuracy": [], "latency": []}

    def measure(self, specification: str, n: int, on_disk: bool = False) -> dict[str, Any] | None:
        """Build and measure an index over the first n items.

        Args:
            specification: See `nanorecsys.scaleup.specs`.
            n: Number of items, one of the keys of `exact`.
            on_disk: Map the inverted lists from the file when searching.

        Returns:
            The columns of `result.ScalePoint`; None for a failure.
        """
        try:
            parsed = parse_specification(specification, n)
            if parsed.factory == BASELINE:
                return self._measure_flat(n)
            return self._measure_index(parsed, n, on_disk)
        except (SpecificationError, CrashError, RuntimeError, ValueError) as error:
            self.failures.append(Failure.of(f"{specification} at {n:,}", error))
            return None

    def recalls(self, n: int) -> pd.DataFrame:
        """Return the mean recall over n items by factory and search, for every setting tried."""
        frame = pd.concat(self.rows["accuracy"])
        own = frame[frame["n"] == n]
        return own.groupby(["factory", "search"], as_index=False)["recall"].mean()

    def _measure_flat(self, n: int) -> dict[str, Any]:
        rows = CatalogueFile(self.catalogue, n)
        size = 4 * n * rows.d
        queries = self.queries[:FLAT_QUERIES]
        options = replace(self.options, choosing=len(queries), timed=len(queries))
        flat = parse_specification(BASELINE, n)
        in_memory = size <= self.memory_gib * GIB
        found = self._search(flat, n, "", options, queries, open_flat, rows, in_memory)
        costs = {"build_s": 0.0, "shared_s": 0.0, "build_peak_gib": 0.0}
        return self._point(flat, n, "", found | costs | {"read_bytes": size, "index_bytes": size})

    def _measure_index(self, parsed: ParsedSpecification, n: int, on_disk: bool) -> dict[str, Any]:
        rows = CatalogueFile(self.catalogue, n)
        check_buildable(parsed, n, rows.d)
        folder = self.folder / f"{n}"
        path = folder / f"{parsed.factory}.index"
        child: dict[str, Any] = {"threads": self.options.threads, "variables": VARIABLES}
        shared_s, peak = 0.0, 0
        if parsed.links:
            costs = build(path, build_graph, rows, parsed, **child)
        else:
            lists = folder / f"lists-{parsed.space}-{parsed.lists}.npz"
            if not lists.exists():
                in_child(assign_lists, lists, rows, parsed, self.training, self.users, **child)
            with np.load(lists) as kept:
                shared_s, peak = float(kept["seconds"]), int(kept["peak_bytes"])
            costs = build(path, build_lists, rows, parsed, self.training, lists, **child)
        where = " on disk" if on_disk else ""
        found = self._search(
            parsed, n, where, self.options, self.queries, load_index, parsed.factory, path, on_disk
        )
        found |= {"build_s": costs.build_s + costs.save_s + shared_s, "shared_s": shared_s}
        found["index_bytes"] = costs.index_bytes
        found["build_peak_gib"] = max(costs.peak_bytes, peak) / GIB
        return self._point(parsed, n, where, found)

    def _search(
        self,
        parsed: ParsedSpecification,
        n: int,
        where: str,
        options: SearchOptions,
        queries: np.ndarray,
        *load: Any,
    ) -> dict[str, Any]:
        settings = search_grid(parsed, options.k, n)
        found, rows = in_child(
            search_at_floor,
            load[0],
            load[1:],
            settings,
            queries,
            self.exact[n],
            options,
            threads=options.threads,
            variables=VARIABLES,
        )
        for name, frame in rows.items():
            factory = parsed.factory + where
            self.rows[name].append(frame.assign(generator=self.generator, n=n, factory=factory))
        return found

    def _point(
        self, parsed: ParsedSpecification, n: int, where: str, found: dict[str, Any]
    ) -> dict[str, Any]:
        read = found["read_bytes"]
        return found | {
            "generator": self.generator,
            "n": n,
            "factory": parsed.factory + where,
            "family": parsed.family + where,
            "bytes_a_vector": found["index_bytes"] / n,
            "search_peak_gib": found["peak_bytes"] / GIB,
            "read_mib": None if read is None else read / MIB,
            "floor_ms": None if read is None else self.limits.read_ms(read, read),
        }
