"""Measure indexes over the first n items of one catalogue, each in its own child processes.

tried = CatalogueBench(folder, "recombined", path, queries, exact, options, training)
row = tried.measure("IVF2048,SQ8", 300_000)
"""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nanorecsys.ann.bench import build, call_once, fingerprint, in_child, recorded
from nanorecsys.ann.errors import Failure
from nanorecsys.ann.exact import Exact
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


@dataclass(eq=False)
class CatalogueBench:
    """One catalogue at several sizes.

    Args:
        folder: Folder of the indexes and of what their searches measured. Those of a killed run
            with the same input are used.
        generator: Generator of the catalogue.
        catalogue: .npy of unit float32 (N, d).
        queries: float32 (q, d).
        exact: Exact neighbours by size, see `exact_prefixes`.
        options: How settings are chosen and timed.
        training: Bounds of the builds.
        memory_gib: Memory for exact search; it maps the vectors if they need more.
        users: Unit float32 (u, d), other users that projections are fitted on.
        failures: Indexes that could not be built or searched.
        rows: Raw rows of the others: accuracy and latency, see `search_at_floor`, with generator,
            n and factory.
    """

    folder: Path
    generator: str
    catalogue: Path
    queries: np.ndarray
    exact: dict[int, Exact]
    options: SearchOptions
    training: TrainingOptions
    memory_gib: float = 8.0
    users: np.ndarray | None = None
    failures: list[Failure] = field(default_factory=list)
    rows: defaultdict[str, list[pd.DataFrame]] = field(default_factory=lambda: defaultdict(list))

    def measure(self, specification: str, n: int) -> dict[str, Any] | None:
        """Build and measure an index over the first n items.

        Args:
            specification: See `nanorecsys.scaleup.specs`.
            n: Number of items, one of the keys of `exact`.

        Returns:
            The columns of `result.ScalePoint` without read_mib and floor_ms, and read_bytes; None
            for a failure.

        Raises:
            AnnError: Flat failed.
        """
        with recorded(self.failures, specification, f" at {n:,}"):
            parsed = parse_specification(specification, n)
            if parsed.factory == BASELINE:
                found = self._measure_flat(parsed, n)
            else:
                found = self._measure_index(parsed, n)
            return found | {
                "generator": self.generator,
                "n": n,
                "family": parsed.family,
                "bytes_a_vector": found["index_bytes"] / n,
                "search_peak_gib": found["peak_bytes"] / GIB,
            }
        return None

    def _measure_flat(self, parsed: ParsedSpecification, n: int) -> dict[str, Any]:
        rows = CatalogueFile(self.catalogue, n)
        size = 4 * n * rows.d
        queries = self.queries[:FLAT_QUERIES]
        options = replace(self.options, choosing=len(queries), timed=len(queries))
        load = (open_flat, rows, size <= self.memory_gib * GIB)
        found = self._search(parsed, rows, options, queries, *load)
        costs = {"build_s": 0.0, "shared_s": 0.0, "build_peak_gib": 0.0}
        return found | costs | {"read_bytes": size, "index_bytes": size}

    def _measure_index(self, parsed: ParsedSpecification, n: int) -> dict[str, Any]:
        rows = CatalogueFile(self.catalogue, n)
        check_buildable(parsed, n, rows.d)
        folder = self._folder(rows)
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
        load = (load_index, path)
        found = self._search(parsed, rows, self.options, self.queries, *load)
        return found | {
            "build_s": costs.build_s + costs.save_s + shared_s,
            "shared_s": shared_s,
            "index_bytes": costs.index_bytes,
            "build_peak_gib": max(costs.peak_bytes, peak) / GIB,
        }

    def _folder(self, rows: CatalogueFile) -> Path:
        """Folder of what is built and measured of these items, with these inputs."""
        ends = rows.read(0, 1), rows.read(rows.n - 1, rows.n)
        return self.folder / f"{rows.n}-{fingerprint(ends, self.training, self.users)}"

    def _search(
        self,
        parsed: ParsedSpecification,
        rows: CatalogueFile,
        options: SearchOptions,
        queries: np.ndarray,
        *load: Any,
    ) -> dict[str, Any]:
        name, settings = parsed.factory, search_grid(parsed, options.k, rows.n)
        given = (load[0], load[1:], settings, queries, self.exact[rows.n], options)
        child = {"threads": options.threads, "variables": VARIABLES}
        path = self._folder(rows) / f"{name}-{fingerprint(settings, queries, options)}.search"
        found, measured = call_once(path, in_child, search_at_floor, *given, **child)
        for kind, frame in measured.items():
            self.rows[kind].append(frame.assign(generator=self.generator, n=rows.n, factory=name))
        return found | {"factory": name}
