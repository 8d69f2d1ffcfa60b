"""An answer equals a direct computation, in any batch. 5 s."""

import asyncio
import dataclasses
import gc
import os
import shutil
import time
import weakref
from pathlib import Path

import msgspec
import numpy as np
import pytest

from nanorecsys.serving.bundle import _write_manifest, check_bundle, open_bundle
from nanorecsys.serving.errors import ServingError
from server import service
from server.batching import COMPUTE_NICE
from server.engine import Engine, Query, Ranked
from server.schema import MAX_K
from server.service import COLLECT_AFTER, Service, settle_memory
from server.settings import Settings
from tests.server.conftest import N_ITEMS, WINDOW, Small, build_small


def open_engine(
    bundle: Path, engine: str = "onnx", models: Path | None = None, **settings
) -> Engine:
    return Engine(Settings(bundle=bundle, engine=engine, models=models, **settings))


@pytest.fixture(scope="module")
def engine(small):
    return open_engine(small.bundle)


def directly(small: Small, items: np.ndarray, exclude_seen: bool = True, candidates: int = 100):
    """Item numbers and scores of one user from the models and all inner products alone."""
    bundle = open_bundle(small.bundle)
    recent = items[-WINDOW:]
    user = bundle.encoder(recent[None].astype(np.int64) + 1, np.array([len(recent)]))
    products = bundle.item_vectors @ user[0]
    if exclude_seen:
        products[items] = -np.inf
    best = np.argsort(-products, kind="stable")[:candidates]
    best = best[np.isfinite(products[best])]
    scores = bundle.ranker(user, best[None])[0]
    order = np.argsort(-scores, kind="stable")[:MAX_K]
    return best[order], scores[order]


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("user", [0, 2, 3, 17, 39])
def test_equals_a_direct_computation(small, engine, user, exclude_seen):
    history = small.histories[user]
    (ranked,), _ = engine([Query(history.astype(np.int64), exclude_seen)])
    items, scores = directly(small, history, exclude_seen)
    np.testing.assert_allclose(ranked.scores, scores, atol=1e-4)
    assert set(ranked.items) == set(items)
    assert len(set(ranked.items)) == len(ranked.items)
    if exclude_seen:
        assert not set(ranked.items) & set(history)


def test_who_has_seen_nearly_all_gets_the_rest(small, engine):
    (ranked,), _ = engine([Query(small.histories[0].astype(np.int64), exclude_seen=True)])
    assert set(ranked.items) == set(range(N_ITEMS)) - set(small.histories[0])
    assert np.isfinite(ranked.scores).all()


def test_a_batch_changes_nothing(small, engine):
    queries = [Query(h.astype(np.int64), exclude_seen=True) for h in small.histories if len(h)]
    together, stages = engine(queries)
    for query, ranked in zip(queries, together, strict=True):
        (alone,), _ = engine([query])
        np.testing.assert_allclose(ranked.scores, alone.scores, atol=1e-4)
        assert set(ranked.items) == set(alone.items)
    assert list(stages) == ["encode", "retrieve", "rank"]


def test_a_stage_that_waits_takes_longer_than_its_cpu_time(small, engine, monkeypatch):
    encode = engine.encode

    def late(*asked):
        time.sleep(0.05)
        return encode(*asked)

    monkeypatch.setattr(engine, "encode", late)
    _, stages = engine([Query(np.arange(5), exclude_seen=True)])
    ms, cpu_ms = stages["encode"]
    assert ms > 50 > 40 > cpu_ms


def test_only_the_window_counts_but_all_of_the_history_is_left_out(small, engine):
    tail = np.arange(WINDOW)
    (short,), _ = engine([Query(tail, exclude_seen=False)])
    (long,), _ = engine([Query(np.concatenate([np.arange(50, 80), tail]), exclude_seen=False)])
    np.testing.assert_allclose(long.scores, short.scores, atol=1e-5)
    (left,), _ = engine([Query(np.concatenate([np.arange(50, 80), tail]), exclude_seen=True)])
    assert not set(left.items) & {*range(50, 80), *range(WINDOW)}


def test_padding_changes_nothing_but_the_work(small, engine):
    padded = open_engine(small.bundle, pad=True)
    query = Query(np.array([3, 1, 4]), exclude_seen=True)
    assert (engine.length(query), padded.length(query)) == (3, WINDOW)
    np.testing.assert_allclose(
        padded([query])[0][0].scores, engine([query])[0][0].scores, atol=1e-4
    )


def test_fewer_events_are_read_where_bundle_or_setting_say_so_and_all_where_padded(small, tmp_path):
    fewer = Path(shutil.copytree(small.bundle, tmp_path / "fewer"))
    _write_manifest(fewer, msgspec.structs.replace(check_bundle(fewer), events_read=4))
    items = np.arange(30, 30 + WINDOW)
    query = Query(items, exclude_seen=True)
    (last,), _ = open_engine(small.bundle)([Query(items[-4:], exclude_seen=False)])
    for engine in (open_engine(fewer), open_engine(small.bundle, read_events=4)):
        assert engine.length(query) == 4
        (ranked,), _ = engine([Query(items, exclude_seen=False)])
        np.testing.assert_allclose(ranked.scores, last.scores, atol=1e-5)
        assert not set(engine([query])[0][0].items) & set(
            items
        )  # what is not read is left out all the same
    (whole,), _ = open_engine(small.bundle)([query])
    for engine in (
        open_engine(fewer, read_events=WINDOW),
        open_engine(fewer, read_events=10 * WINDOW),
        open_engine(fewer, pad=True),
        open_engine(fewer, "torch-padded", small.models),
    ):
        assert engine.length(query) == WINDOW
        np.testing.assert_allclose(engine([query])[0][0].scores, whole.scores, atol=1e-4)


def test_the_warm_up_reads_only_items_that_the_tower_knows(small):
    engine = open_engine(small.bundle)
    manifest = msgspec.structs.replace(engine.bundle.manifest, known_items=60)
    engine.bundle = dataclasses.replace(engine.bundle, manifest=manifest)
    read = []

    def encode(items, lengths, encode=engine.encode):
        read.append(items.max())
        return encode(items, lengths)

    engine.encode = encode
    engine.warm_up()
    assert 0 < max(read) <= 60  # numbers of the vocabulary, where 0 is padding


@pytest.mark.parametrize("kind", ["torch", "torch-padded"])
def test_torch_gives_the_same(small, engine, kind):
    torch_engine = open_engine(small.bundle, kind, small.models)
    assert torch_engine.pad is (kind == "torch-padded")
    for history in small.histories[2:12]:
        query = Query(history.astype(np.int64), exclude_seen=True)
        (a,), _ = engine([query])
        (b,), _ = torch_engine([query])
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-3)
        assert len(set(a.items) & set(b.items)) >= 98


def test_best_pytorch_reads_what_the_bundle_says_at_its_own_length(small, tmp_path):
    fewer = Path(shutil.copytree(small.bundle, tmp_path / "fewer"))
    _write_manifest(fewer, msgspec.structs.replace(check_bundle(fewer), events_read=4))
    best = open_engine(fewer, "torch", small.models)
    widths = []

    def encode(items, lengths, encode=best.encode):
        widths.append(items.shape[1])
        return encode(items, lengths)

    best.encode = encode
    queries = [Query(np.arange(length), exclude_seen=True) for length in (2, WINDOW)]
    assert [best.length(query) for query in queries] == [2, 4]
    for query in queries:
        (a,), _ = open_engine(fewer)([query])
        (b,), _ = best([query])
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-3)
    assert widths == [2, 4]


def test_without_a_compiler_pytorch_stays_eager_and_the_log_says_so(small, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    query = Query(np.arange(5), exclude_seen=True)
    (eager,), _ = open_engine(small.bundle, "torch", small.models)([query])
    (asked,), _ = open_engine(small.bundle, "torch", small.models, compile=True)([query])
    np.testing.assert_array_equal(asked.items, eager.items)
    [message] = caplog.messages
    assert "not compiled" in message
    assert "no-such-compiler" in message


@pytest.mark.parametrize("kind", ["onnx", "torch", "torch-padded"])
def test_without_a_ranker_the_order_and_scores_are_the_retrievers(unranked, small, tmp_path, kind):
    (tmp_path / "retriever.pt").symlink_to(small.models / "retriever.pt")  # and no ranker.pt
    engine = open_engine(unranked, kind, None if kind == "onnx" else tmp_path)
    bundle = open_bundle(unranked)
    for history in small.histories[:1] + small.histories[2:12]:
        (ranked,), stages = engine([Query(history.astype(np.int64), exclude_seen=True)])
        recent = history[None, -WINDOW:].astype(np.int64)
        products = bundle.item_vectors @ bundle.encoder(recent + 1, np.array([recent.shape[1]]))[0]
        products[history] = -np.inf
        best = np.sort(products[np.isfinite(products)])[::-1][:MAX_K]
        np.testing.assert_allclose(ranked.scores, best, atol=1e-5)
        np.testing.assert_allclose(products[ranked.items], best, atol=1e-5)
        assert list(stages) == ["encode", "retrieve"]


def test_torch_models_of_another_catalogue_are_refused(small, tmp_path):
    from tests.server.films import build
    from tests.serving.test_bundle import N_ITEMS as OTHER

    assert OTHER != N_ITEMS
    with pytest.raises(ServingError, match="expected models with"):
        open_engine(build(tmp_path), "torch", small.models)


def test_another_bundle_has_another_id(small, engine, tmp_path):
    assert open_engine(small.bundle).id == engine.id
    assert open_engine(build_small(tmp_path, seed=1).bundle).id != engine.id


def test_every_setting_that_changes_an_answer_is_in_the_key_of_the_cache(small, engine, tmp_path):
    folders = [small.models, build_small(tmp_path / "other", seed=1).models]
    copies = {"retriever.pt": tmp_path / "retriever", "ranker.pt": tmp_path / "ranker"}
    for name, folder in copies.items():  # one of the two models is the other run's
        shutil.copytree(small.models, folder)
        shutil.copy(folders[1] / name, folder / name)
    others = [{"candidates": 7}, {"read_events": 3}, {"pad": True}]
    others += [{"engine": "torch", "models": folder} for folder in [*folders, *copies.values()]]
    others += [{"engine": "torch-padded", "models": small.models}]
    keys = {open_engine(small.bundle, **settings).cache_id for settings in others}
    assert len(keys | {engine.cache_id}) == 1 + len(others)
    assert open_engine(small.bundle).cache_id == engine.cache_id
    again = shutil.copytree(small.models, tmp_path / "again")
    assert open_engine(small.bundle, "torch", again).cache_id in keys


def test_bytes_keep_everything():
    ranked = Ranked(np.array([3, 1], np.int32), np.array([0.5, -2], np.float32))
    again = Ranked.from_bytes(ranked.to_bytes())
    assert again.items.tolist() == [3, 1]
    assert again.scores.tolist() == [0.5, -2.0]


def test_what_was_loaded_is_spared_by_later_collections_and_garbage_is_not():
    class Part:
        """One that refers to itself, so that only the collector finds it."""

        def __init__(self):
            self.own = self

    thresholds, loaded, garbage = gc.get_threshold(), [[] for _ in range(1000)], weakref.ref(Part())
    try:
        settle_memory()
        followed = {id(thing) for thing in gc.get_objects()}
        assert followed.isdisjoint(map(id, loaded))
        assert garbage() is None
        assert gc.get_threshold() == COLLECT_AFTER
        replaced = weakref.ref(Part())
        settle_memory()  # after the next bundle: what the last one left behind goes
        assert replaced() is None
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def test_bundles_are_opened_at_a_lower_priority_than_the_event_loop(small, tmp_path, monkeypatch):
    event_loop, opened = os.getpriority(os.PRIO_PROCESS, 0), []

    class Noted(Engine):
        def __init__(self, *arguments):
            opened.append(os.getpriority(os.PRIO_PROCESS, 0))
            super().__init__(*arguments)

    async def main():
        worker = Service(Settings(bundle=small.bundle, events=str(tmp_path / "events.sqlite")))
        await worker.open()
        await worker.reload()
        await worker.close()

    thresholds = gc.get_threshold()
    monkeypatch.setattr(service, "Engine", Noted)
    try:
        asyncio.run(main())
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
    assert opened == [event_loop + COMPUTE_NICE] * 2
    assert os.getpriority(os.PRIO_PROCESS, 0) == event_loop
