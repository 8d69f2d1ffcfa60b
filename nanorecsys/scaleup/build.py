"""Indexes over a catalogue that is never whole in memory: trained on a sample, filled block by block, merged.

Centroids and the list of each item are computed once for a number of lists and serve every index
that has as many. Lists in a projection see the rows projected as they are read; what refines them
sees the whole ones. Each block of items becomes an index of its own in a file; at the end they are
merged, on the disk where asked. A run that was killed finds the files that are whole, and what it
makes of them is the same to the byte. Only graphs are not: threads insert at the same time, so that
links depend on who comes first.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from nanorecsys.ann.indexes import (
    BuildOptions,
    check_factory,
    check_neighbours,
    project_by,
    users_projection,
)
from nanorecsys.ann.specs import directions, needs_users
from nanorecsys.scaleup.rows import Rows
from nanorecsys.scaleup.specs import Parts, parts
from nanorecsys.scaleup.steps import Steps
from nanorecsys.system.blas import faiss

GRAPH_BLOCK = 16_384
CODE_POINTS = (
    16_384  # items that codes are trained on, at most: 64 for each centroid of an 8-bit code
)
CODE_ITERATIONS = 10  # of k-means for them
CLUSTER_POINTS = 262_144  # items that k-means of lists is trained on, at most
COARSE_FACTOR = 2  # centroids compared again, for each list that is asked for
ONE_BY_ONE = (
    11  # of FAISS's ways through lists: each query by itself, its candidates in a reservoir
)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to build, and what bounds its time.

    Args:
        specification: see `specs`.
        catalogue: .npy of unit float32 (N, d).
        n: its first rows that are indexed.
        folder: for the steps' files; indexes over the same rows share it.
        points: of the sample for each list.
        iterations: of k-means.
        block_rows: items of a block.
        threads: of building.
        on_disk: leave the codes of the lists in a file of their own, which is mapped, not loaded.
        seed: of samples and k-means.
        options: of graphs.
        users: .npy of users' vectors that a projection is fitted on, unit float32 (u, d), "" for
            none.
    """

    specification: str
    catalogue: str
    n: int
    folder: str
    points: int = 64
    iterations: int = 8
    block_rows: int = 262_144
    threads: int = 2
    on_disk: bool = False
    seed: int = 0
    options: BuildOptions = BuildOptions()
    users: str = ""


@dataclass(frozen=True)
class Built:
    """An index file, and seconds: `shared_s` for centroids and lists, which other indexes use as well."""

    path: Path
    build_s: float
    shared_s: float


def build(plan: Plan) -> Built:
    """Build one index, or take up where it was left.

    Raises:
        SpecificationError: one of its subclasses, for a specification that is unknown or does not
            fit the vectors.
    """
    return _Build(plan).run()


class _Build:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rows = Rows(Path(plan.catalogue), plan.n)
        self.parts = parts(plan.specification, self.rows.n)
        check_neighbours(1, self.rows.n)
        p = self.parts
        space = f"{p.space}," if p.space else ""
        for code in (p.factory.replace("_HNSW", ",HNSW"), f"{space}{p.coarse_code}"):
            check_factory(code, self.rows.n, self.rows.d)
        self.steps = Steps(Path(plan.folder))
        self.space = f"{p.space}-" if p.space else ""
        self.projection = self._projection() if p.space else None
        self.seen = self.rows if self.projection is None else self.rows.projected(self.projection)

    def run(self) -> Built:
        faiss.omp_set_num_threads(self.plan.threads)
        if self.parts.links:
            path, own, shared = self._graph()
        elif self.parts.coarse_links or self.parts.coarse_code:
            path, own, shared = self._other_coarse()
        else:
            path, own, shared = self._lists(self.parts)
        return Built(path, own, shared)

    def _projection(self) -> np.ndarray:
        """Of rows onto the space's directions, float32 (directions, d); fitted in no time."""
        p = self.parts
        items = self.rows.sample(CODE_POINTS, self.plan.seed + 2, self.plan.block_rows)
        users = items
        if needs_users(p.factory):
            users = np.load(self.plan.users) if self.plan.users else None
        return users_projection(items, users, directions(p.factory), self.plan.seed)

    def _lists(self, p: Parts) -> tuple[Path, float, float]:
        key = _name(p.factory) + ("-disk" if self.plan.on_disk else "")
        blocks = f"block-{self.space}{p.lists}-{p.code.removesuffix('fs').removesuffix('np')}-"
        shared = f"coarse-{self.space}{p.lists}-"
        final = self.steps.folder / f"{key}.index"
        if not final.exists():
            centroids, assigned = self._coarse(p.lists)
            trained = self.steps.do(
                f"{blocks}trained", lambda path: self._train(p, centroids, path)
            )
            files = [
                self.steps.do(
                    f"{blocks}{start}",
                    lambda path, span=(start, stop): self._block(trained, assigned, *span, path),
                )
                for start, stop in self.rows.blocks(self.plan.block_rows)
            ]
            refine = self.steps.do("refine-SQ8", self._codes) if p.refined else None
            self.steps.do(final.name, lambda path: self._merge(p, trained, files, refine, path))
            for file in files:
                file.unlink()
        own = self.steps.seconds(blocks) + self.steps.seconds(final.name)
        own += self.steps.seconds("refine-SQ8") if p.refined else 0.0
        return final, own, self.steps.seconds(shared)

    def _coarse(self, lists: int) -> tuple[np.ndarray, list[Path]]:
        """Centroids (lists, d), and files of the list of each item, a file a block."""
        centroids = np.load(
            self.steps.do(
                f"coarse-{self.space}{lists}-centroids.npy", lambda path: self._cluster(lists, path)
            )
        )
        assigned = [
            self.steps.do(
                f"coarse-{self.space}{lists}-{start}.npy",
                lambda path, span=(start, stop): self._assign(centroids, *span, path),
            )
            for start, stop in self.rows.blocks(self.plan.block_rows)
        ]
        return centroids, assigned

    def _cluster(self, lists: int, path: Path) -> None:
        points = min(lists * self.plan.points, CLUSTER_POINTS)
        sample = self.seen.sample(points, self.plan.seed, self.plan.block_rows)
        clustering = faiss.Clustering(self.seen.d, lists)
        clustering.niter, clustering.seed, clustering.spherical = (
            self.plan.iterations,
            self.plan.seed + 1,
            True,
        )
        clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, self.plan.points
        clustering.train(sample, faiss.IndexFlatIP(self.seen.d))
        centroids = faiss.vector_to_array(clustering.centroids).reshape(lists, self.seen.d)
        _save(path, centroids)

    def _assign(self, centroids: np.ndarray, start: int, stop: int, path: Path) -> None:
        quantizer = faiss.IndexFlatIP(self.seen.d)
        quantizer.add(centroids)
        _save(path, quantizer.search(self.seen.read(start, stop), 1)[1][:, 0])

    def _train(self, p: Parts, centroids: np.ndarray, path: Path) -> None:
        # fast scan packs codes once all are there; until then they are plain ones
        fast_scan = "x4fs" in p.code
        code = f"{p.code.partition('fs')[0]}np" if fast_scan else p.code.removesuffix("fs")
        index = faiss.index_factory(self.seen.d, f"IVF{p.lists},{code}", faiss.METRIC_INNER_PRODUCT)
        if fast_scan:
            index.by_residual = p.code.endswith("r")  # as the factory has it
        if isinstance(index, faiss.IndexIVFPQ):
            index.pq.cp.niter, index.pq.cp.max_points_per_centroid = (
                CODE_ITERATIONS,
                CODE_POINTS // 256,
            )
        index.quantizer.add(centroids)
        index.train(self.seen.sample(CODE_POINTS, self.plan.seed + 1, self.plan.block_rows))
        faiss.write_index(index, str(path))

    def _block(
        self, trained: Path, assigned: list[Path], start: int, stop: int, path: Path
    ) -> None:
        index = faiss.read_index(str(trained))
        vectors, ids = self.seen.read(start, stop), np.arange(start, stop)
        lists = np.load(assigned[start // self.plan.block_rows])
        index.add_core(len(ids), *(faiss.swig_ptr(a) for a in (vectors, ids, lists)))
        faiss.write_index(index, str(path))

    def _codes(self, path: Path) -> None:
        index = faiss.IndexScalarQuantizer(
            self.rows.d, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        index.train(self.rows.sample(CODE_POINTS, self.plan.seed + 1, self.plan.block_rows))
        for start, stop in self.rows.blocks(GRAPH_BLOCK):
            index.add(self.rows.read(start, stop))
        faiss.write_index(index, str(path))

    def _merge(
        self, p: Parts, trained: Path, files: list[Path], refine: Path | None, path: Path
    ) -> None:
        index = faiss.read_index(str(trained))
        if self.plan.on_disk:
            from faiss.contrib.ondisk import merge_ondisk

            merge_ondisk(
                index,
                [str(f) for f in files],
                str(self.steps.folder / f"{_name(p.factory)}-disk.ivfdata"),
            )
        else:
            for file in files:
                index.merge_from(faiss.read_index(str(file)), 0)
        if "fs" in p.code:
            packed = (
                faiss.IndexIVFRaBitQFastScan
                if p.code.startswith("RaBitQ")
                else faiss.IndexIVFPQFastScan
            )
            index = packed(index)
            if p.code.startswith("PQ"):
                index.implem = ONE_BY_ONE
        if self.projection is not None:
            transform = faiss.LinearTransform(self.rows.d, self.seen.d, False)
            project_by(transform, self.projection)
            index = faiss.IndexPreTransform(transform, index)
        if refine is not None:
            codes = faiss.read_index(str(refine))
            index = faiss.IndexRefine(index, codes)
        faiss.write_index(index, str(path))

    def _other_coarse(self) -> tuple[Path, float, float]:
        """The same lists, their centroids found by a graph or by codes."""
        p = self.parts
        other = f"_HNSW{p.coarse_links}" if p.coarse_links else f"({p.coarse_code})"
        plain = parts(p.factory.replace(other, ""), self.rows.n)
        source, own, shared = self._lists(plain)
        name = f"{_name(p.factory)}.index"

        def swap(path: Path) -> None:
            index = faiss.read_index(str(source))
            lists = faiss.extract_index_ivf(index)
            centroids = lists.quantizer.reconstruct_n(0, p.lists)
            faiss.omp_set_num_threads(1)  # so that the links are the same each time
            coarse = self._coded(centroids) if p.coarse_code else self._linked(centroids)
            faiss.omp_set_num_threads(self.plan.threads)
            lists.quantizer, lists.own_fields = coarse, False
            faiss.write_index(index, str(path))

        final = self.steps.do(name, swap)
        return final, own + self.steps.seconds(name), shared

    def _linked(self, centroids: np.ndarray) -> faiss.Index:
        graph = faiss.IndexHNSWFlat(
            self.seen.d, self.parts.coarse_links, faiss.METRIC_INNER_PRODUCT
        )
        graph.hnsw.efConstruction = self.plan.options.hnsw_beam
        graph.add(centroids)
        return graph

    def _coded(self, centroids: np.ndarray) -> faiss.Index:
        index = faiss.index_factory(self.seen.d, self.parts.coarse_code, faiss.METRIC_INNER_PRODUCT)
        index.k_factor = COARSE_FACTOR
        index.train(centroids)
        index.add(centroids)
        return index

    def _graph(self) -> tuple[Path, float, float]:
        """A graph over the items themselves."""
        name = f"{self.parts.factory}.index"
        return self.steps.do(name, self._insert), self.steps.seconds(name), 0.0

    def _insert(self, path: Path) -> None:
        index = faiss.IndexHNSWFlat(self.rows.d, self.parts.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.plan.options.hnsw_beam
        for start, stop in self.rows.blocks(GRAPH_BLOCK):
            index.add(self.rows.read(start, stop))
        faiss.write_index(index, str(path))


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def _name(factory: str) -> str:
    return factory.replace(",", "-").replace("(", "").replace(")", "")
