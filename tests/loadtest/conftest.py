"""The chapter's bundles of small models, users bootstrapped, and a bench to load them on."""

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nanorecsys.ann import bundle as command
from nanorecsys.data import Histories
from nanorecsys.loadtest.bundles import Bundles, build_bundles
from nanorecsys.loadtest.measure import Bench
from nanorecsys.serving.bundle import Parts, open_bundle
from tests.server.conftest import N_USERS, build_small

MANY = 400
EVENTS_READ = 6  # of a window of 10


def parts_of(bundle: Path) -> Parts:
    """What a bundle was made of, with the index that a search chapter might recommend.

    Left out is the user who has seen nearly everything: none of a hundred candidates is left to
    compare.
    """
    opened = open_bundle(bundle)
    m, start = opened.manifest, opened.histories.offsets[1]
    return Parts(
        tower=bundle / "tower.onnx",
        tower_fp32=bundle / "tower_fp32.onnx",
        ranker=bundle / "ranker.onnx",
        item_vectors=opened.item_vectors,
        items=opened.items,
        histories=Histories(opened.histories.offsets[1:] - start, opened.histories.items[start:]),
        user_ids=np.arange(N_USERS - 1),
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
    """A run's folder with models, from which the parts of a bundle can be gathered."""
    folder = tmp_path_factory.mktemp("run")
    parts = parts_of(build_small(folder / command.TRAINING).bundle)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "gather", lambda _: parts)
        yield folder


@pytest.fixture(scope="package")
def served(run: Path) -> Bundles:
    """Every bundle of the ladder."""
    return build_bundles(run, run / "bundles", MANY, seed=0)


@pytest.fixture
def bench(served: Bundles, tmp_path: Path) -> Bench:
    """A bench for them."""
    return Bench(served, tmp_path / "bench", hot_users=20, cold_share=0.3, bound_ms=1000.0, seed=0)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As at a terminal: a shell starts what it puts in the background with this signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
