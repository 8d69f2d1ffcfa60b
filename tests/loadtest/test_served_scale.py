"""The final server with a catalogue larger than the one that its models know. 15 s."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from nanorecsys.ann.indexes import build_index
from nanorecsys.loadtest import served_scale
from nanorecsys.loadtest.ladder import FINAL
from nanorecsys.loadtest.result import MeasuredServer, Operated, Round, ServedScale
from nanorecsys.loadtest.served_scale import LARGE, add_bundle, operate, p99_ms
from nanorecsys.scaleup import generate
from nanorecsys.serving import bundle as bundle_module
from nanorecsys.serving.bundle import check_bundle, open_bundle
from nanorecsys.serving.candidates import candidates_of
from nanorecsys.serving.errors import BundleError
from nanorecsys.serving.padding import padded

pytestmark = pytest.mark.timed  # they share the bundles with tests that need the machine
N, SEED = 900, 5
SPECS = {"IVF8,SQ8": "nprobe=8", "scann:leaves=8": "leaves=8,rerank=900"}


@pytest.fixture(scope="module", params=SPECS)
def large(request, served, tmp_path_factory):
    """The bundles with one of a made-up catalogue, whose index chapter 05 has left."""
    run = tmp_path_factory.mktemp("scaled")
    (run / "05_scaleup").mkdir()
    real = served.served.item_vectors
    catalogue = generate(np.ascontiguousarray(real), N, "recombined", SEED)
    build_index(request.param, catalogue).save(run / "05_scaleup" / "best.index")
    point = SimpleNamespace(factory=request.param, search=SPECS[request.param])
    result = SimpleNamespace(n_items=N, generator="recombined", seed=SEED, served=point)
    record = SimpleNamespace(result=result, files={"best index": "best.index"})
    bundles = dataclasses.replace(served, folders=dict(served.folders))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served_scale, "read_record", lambda folder, kind: record)
        assert add_bundle(run, bundles) is result
    return bundles


def test_the_bundle_is_whole_and_has_the_catalogue_of_chapter_05(large, served):
    manifest = check_bundle(large.folders[LARGE.bundle])
    bundle = open_bundle(large.folders[LARGE.bundle])
    real = len(served.served.item_vectors)
    assert (manifest.n_items, manifest.known_items) == (N, real)
    assert (manifest.index_factory, manifest.index_search) in SPECS.items()
    np.testing.assert_array_equal(bundle.item_vectors[:real], served.served.item_vectors)
    assert not large.folders[LARGE.bundle].with_name("scale.npy").exists()


def test_made_up_items_are_recommended_but_are_in_no_history(large, served):
    bundle = open_bundle(large.folders[LARGE.bundle])
    real = len(served.served.item_vectors)
    assert bundle.histories.items.max() < real
    assert len(bundle.item_numbers) == real  # an event of another item is unknown to the server
    assert bundle.items["title"].iloc[real:].eq("").all()
    assert bundle.items["genres"].iloc[-1] is bundle.items["genres"].iloc[-2]  # one list for all
    users = np.arange(20)
    vectors = bundle.encoder(*padded(bundle.histories, users, bundle.manifest.events_read))
    seen = [bundle.histories.take(users[i : i + 1]).items for i in range(20)]
    found, scores = candidates_of(bundle, vectors, seen, 50)
    assert (found >= real).any()
    for own, items in zip(found, seen, strict=True):
        assert not np.isin(own, items).any()
    exact = np.take_along_axis(vectors @ bundle.item_vectors.T, found, axis=1)
    np.testing.assert_allclose(scores, exact, atol=0.02)


def test_workers_share_vectors_that_are_large(large, monkeypatch):
    folder = large.folders[LARGE.bundle]
    assert not isinstance(open_bundle(folder).item_vectors.base, np.memmap)
    monkeypatch.setattr(bundle_module, "MAPPED_BYTES", 1000)
    vectors = open_bundle(folder).item_vectors
    assert isinstance(vectors.base, np.memmap)
    assert not vectors.flags.writeable


def test_a_history_of_unknown_items_is_refused(large, tmp_path):
    parts = dataclasses.replace(large.served, ranker=None, known_items=10)
    with pytest.raises(BundleError, match="0 to 9"):
        served_scale.build_bundle(tmp_path / "bundle", parts)


@pytest.mark.parametrize("ids", [[7, 3, 12], ["a", "b", "c"], ["7", "x", "9"]])
def test_no_id_comes_twice(ids):
    items = pd.DataFrame({"item": [0, 1, 2], "item_id": ids, "title": "x", "year": 1990})
    items["genres"] = [["Drama"]] * 3
    found = served_scale.with_untitled(items, 50)
    assert found["item_id"].is_unique
    assert found["item_id"].tolist()[:3] == ids
    assert type(found["item_id"].iloc[-1]) is type(items["item_id"].iloc[0])
    assert found["item"].tolist() == list(range(50))
    assert found["genres"].iloc[-1] == []


def test_the_server_starts_and_reloads_with_the_large_catalogue(bench, large):
    bench.bundles = large
    found = operate(bench, dataclasses.replace(LARGE, workers=1))
    assert 0 < found.start_s < 180
    assert found.reload_s > 0
    assert found.reload_mib >= found.memory_mib > 50


def measured(*rates):
    """A server by the highest rate of each round."""
    rounds = [Round(cpu_ms=1.0, busy_per_s=1.0, highest_per_s=r, limit="") for r in rates]
    told = {"name": "x", "before": "", "change": "", "findings": (), "workers": 2, "threads": 1}
    return MeasuredServer(**told, rounds=rounds)


def test_the_ratio_is_by_round_and_leaves_out_rounds_without_a_rate():
    cost = Operated(start_s=1.0, reload_s=1.0, memory_mib=1.0, reload_mib=1.0)
    given = {"generator": "local", "index": None, "real_cost": cost, "large_cost": cost}
    given |= {"real_p99_ms": [], "large_p99_ms": []}
    servers = {"real": measured(100.0, 200.0, 50.0), "large": measured(60.0, 100.0, None)}
    ratio = ServedScale(**given, **servers).ratio
    assert (ratio.low, ratio.middle, ratio.high) == pytest.approx((0.5, 0.55, 0.6))
    none = ServedScale(**given | {"real": measured(0.0), "large": measured(5.0)})
    assert none.ratio is None


def test_only_runs_that_confirmed_a_rate_give_a_p99():
    def run(server, scenario, verdict, p99):
        row = {"server": server, "scenario": scenario, "verdict": verdict, "p99_ms": p99}
        return SimpleNamespace(row=SimpleNamespace(**row))

    runs = [
        run(LARGE.name, "confirming", "VALID", 40.0),
        run(LARGE.name, "confirming", "INVALID", 140.0),
        run(LARGE.name, "search", "VALID", 30.0),
        run(LARGE.name, "confirming", "VALID", None),
        run(FINAL.name, "confirming", "VALID", 20.0),
    ]
    assert (p99_ms(runs, LARGE), p99_ms(runs, FINAL)) == ([40.0], [20.0])
