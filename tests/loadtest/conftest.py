"""Bundles of small models with bootstrapped users, and a bench that loads them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from nanorecsys.data import Histories
from nanorecsys.loadtest import bundles
from nanorecsys.loadtest.bench import Bench
from nanorecsys.loadtest.bundles import Bundles, build_bundles
from nanorecsys.serving.bundle import Parts, open_bundle
from tests.server.conftest import build_small

MANY = 400
EVENTS_READ = 6  # events that the served bundles read; the window has 10


def parts_of(bundle: Path) -> Parts:
    """Parts of a bundle, with an index that the index chapter might recommend.

    Some users are left out: who has seen nearly everything leaves no candidates to compare, who
    has no history gets a fallback, and very short histories have copies with the same answer.
    """
    opened = open_bundle(bundle)
    m, lengths = opened.manifest, opened.histories.lengths
    users = np.flatnonzero((lengths >= 4) & (lengths <= 100))
    starts = opened.histories.offsets[users]
    histories = [
        opened.histories.items[start:][:n] for start, n in zip(starts, lengths[users], strict=True)
    ]
    return Parts(
        tower=bundle / "tower.onnx",
        ranker=bundle / "ranker.onnx",
        item_vectors=opened.item_vectors,
        items=opened.items,
        histories=Histories(np.cumsum([0, *lengths[users]]), np.concatenate(histories)),
        user_ids=np.arange(len(users)),
        popularity=opened.popularity,
        dataset=m.dataset,
        commit=m.commit,
        window=m.window,
        events_read=EVENTS_READ,
        tower_variant=m.tower_variant,
        tower_is_int8=False,
        index_factory="IVF4,Flat",
        index_search="nprobe=4",
    )


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a run with models, from which the parts of a bundle can be gathered."""
    folder = tmp_path_factory.mktemp("run")
    parts = parts_of(build_small(folder / bundles.TRAINING).bundle)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles, "gather", lambda _, with_ranker: parts)
        model = onnx.load(parts.tower)
        model.doc_string = "in fp32"
        onnx.save(model, folder / "fp32.onnx")
        patch.setattr(bundles, "fp32_tower", lambda _: folder / "fp32.onnx")
        yield folder


@pytest.fixture(scope="package")
def served(run: Path) -> Bundles:
    """Every bundle of the ladder; the study serves no ranker."""
    return build_bundles(run, run / "bundles", MANY, seed=0, serves_ranker=False)


@pytest.fixture
def bench(served: Bundles, tmp_path: Path) -> Iterator[Bench]:
    """Bench for these bundles."""
    load = {"hot_users": 20, "cold_share": 0.3, "bound_ms": 1e3, "refused_share": 0.001}
    made = Bench(served, tmp_path / "bench", **load, seed=0)
    yield made
    made.close()
