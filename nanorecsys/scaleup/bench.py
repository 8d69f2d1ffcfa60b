"""Measure indexes over the first n items of one catalogue, each in its own child processes.

tried = CatalogueBench(folder, "recombined", path, queries, exact, options, users)
row = tried.measure("IVF2048,SQ8", 300_000)
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nanorecsys.ann.bench import BuildCosts, build, call_once, fingerprint, in_child, recorded
from nanorecsys.ann.errors import Failure
from nanorecsys.ann.exact import Exact
from nanorecsys.ann.specs import BASELINE
from nanorecsys.scaleup import specs
from nanorecsys.scaleup.build import build as build_catalogue
from nanorecsys.scaleup.build import try_build
from nanorecsys.scaleup.catalogue import CatalogueFile
from nanorecsys.scaleup.search import SearchOptions, open_flat, search_at_floor
from nanorecsys.serving.retrieval import Index, load_index

FLAT_QUERIES = 20  # a round of exact search of the largest catalogue takes some seconds
GIB = 2**30


def usable(
    specifications: Sequence[str], vectors: np.ndarray, threads: int
) -> tuple[list[str], list[Failure]]:
    """Keep the specifications that can be built here, those of other libraries by a try.

    Args:
        specifications: See `nanorecsys.scaleup.specs`.
        vectors: Real items, unit float32 (n, d).
        threads: Threads of a build.

    Returns:
        The specifications, and what failed: a library that is missing, or vectors that do not fit.
    """
    kept: list[str] = []
    failures: list[Failure] = []
    for specification in specifications:
        with recorded(failures, specification):
            parsed = specs.parse_specification(specification, len(vectors))
            if parsed.library in specs.OTHERS:
                in_child(try_build, parsed.factory, vectors, threads=threads)
            kept.append(specification)
    return kept, failures


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
        users: Unit float32 (u, d), other users that projections are fitted on.
        extra: Search settings to try beside those of the grid.
        failures: Indexes that could not be built or searched.
        rows: Raw rows of the others: accuracy and latency, see `search_at_floor`, with generator,
            n, factory and k.
    """

    folder: Path
    generator: str
    catalogue: Path
    queries: np.ndarray
    exact: dict[int, Exact]
    options: SearchOptions
    users: np.ndarray
    extra: tuple[str, ...] = ()
    failures: list[Failure] = field(default_factory=list)
    rows: defaultdict[str, list[pd.DataFrame]] = field(default_factory=lambda: defaultdict(list))

    def measure(self, specification: str, n: int) -> dict[str, Any] | None:
        """Build and measure an index over the first n items.

        Args:
            specification: See `nanorecsys.scaleup.specs`.
            n: Number of items, one of the keys of `exact`.

        Returns:
            The fields of `result.ScalePoint`; None for a failure.

        Raises:
            AnnError: Flat failed.
        """
        with recorded(self.failures, specification, f" at {n:,}"):
            parsed = specs.parse_specification(specification, n)
            rows, path = CatalogueFile(self.catalogue, n), self.index_path(parsed.factory, n)
            if parsed.factory == BASELINE:
                costs = BuildCosts(0, 0, index_bytes=4 * n * rows.d, base_bytes=0, peak_bytes=0)
                found = self._search(parsed, rows, FLAT_QUERIES, open_flat, rows)
            else:
                given = (rows, parsed, self.users, self.options.seed)
                costs = build(path, build_catalogue, *given, threads=self.options.threads)
                found = self._search(parsed, rows, len(self.queries), load_index, path)
            return found | {
                "generator": self.generator,
                "n": n,
                "factory": parsed.factory,
                "family": parsed.family,
                "bytes_a_vector": costs.index_bytes / n,
                "build_s": costs.build_s + costs.save_s,
                "build_peak_gib": costs.peak_bytes / GIB,
            }
        return None

    def index_path(self, factory: str, n: int) -> Path:
        """File of an index over the first n items."""
        return self._folder(CatalogueFile(self.catalogue, n)) / f"{factory}.index"

    def _folder(self, rows: CatalogueFile) -> Path:
        """Folder of what is built and measured of these items, with these inputs."""
        ends = rows.read(0, 1), rows.read(rows.n - 1, rows.n)
        return self.folder / f"{rows.n}-{fingerprint(ends, self.options.seed, self.users)}"

    def _search(
        self,
        parsed: specs.ParsedSpecification,
        rows: CatalogueFile,
        count: int,
        load: Callable[..., Index],
        *arguments: Any,
    ) -> dict[str, Any]:
        """Search with the first `count` queries an index that is loaded in the child process."""
        name, queries, options = parsed.factory, self.queries[:count], self.options
        settings = [*specs.widest_settings(parsed, options.k, rows.n), *self.extra]
        path = self._folder(rows) / f"{name}-{fingerprint(settings, queries, options)}.search"
        task = (search_at_floor, load, arguments, settings, queries, self.exact[rows.n], options)
        found, measured = call_once(path, in_child, *task, threads=options.threads)
        for kind, frame in measured.items():
            named = {"generator": self.generator, "n": rows.n, "factory": name, "k": options.k}
            self.rows[kind].append(frame.assign(**named))
        return found
