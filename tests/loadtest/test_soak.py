"""A short soak test over real sockets, and its judge, which can fail. 20 s."""

import dataclasses
import socket
from collections import Counter
from urllib.parse import urlsplit

import numpy as np
import pytest

from benchmarks import soak as benchmark
from benchmarks.soak import (
    CANDIDATES,
    TOLERANCE,
    DirectAnswer,
    K,
    RedisProcess,
    Report,
    _message,
    gather_in_fp32,
    soak,
)
from nanorecsys.loadtest import bundles
from nanorecsys.serving.bundle import build_bundle
from nanorecsys.serving.padding import padded
from tests.server.films import USER_IDS, build, serving

pytestmark = pytest.mark.timed


@pytest.fixture(scope="module")
def direct(served, tmp_path_factory):
    folder = tmp_path_factory.mktemp("direct") / "bundle"
    build_bundle(folder, served.served)
    return DirectAnswer(folder)


def answer(direct, user_id, posted=(), k=K):
    """Make the right answer."""
    history = direct.history(user_id, posted)
    user = direct.user_vector(history)
    found = direct.bundle.index.search(user, 2 * CANDIDATES)[1][0]
    kept = found[(found >= 0) & ~np.isin(found, history)][:CANDIDATES]
    scores = direct.scores(user, kept)
    best = np.argsort(-scores)[:k]
    return [{"item_id": int(direct.item_ids[kept[i]]), "score": float(scores[i])} for i in best]


def test_the_direct_answer_is_right(direct):
    for user_id in range(1, 40):
        assert direct.fault(user_id, answer(direct, user_id)) == ""


def test_scores_do_not_depend_on_the_batch(direct, served):
    users = np.arange(40)
    together = direct.bundle.encoder(
        *padded(direct.bundle.histories, users, direct.bundle.manifest.events_read)
    )
    items = np.arange(100)
    for user in users:
        alone = direct.scores(direct.user_vector(direct.history(int(user) + 1, ())), items)
        assert np.abs(direct.scores(together[user : user + 1], items) - alone).max() < TOLERANCE / 4


def test_a_run_is_gathered_with_the_tower_in_fp32(served, tmp_path, monkeypatch):
    parts = dataclasses.replace(served.served, tower_is_int8=True)
    monkeypatch.setattr(benchmark, "gather", lambda _: parts)
    monkeypatch.setattr(benchmark, "fp32_tower", lambda run: run / "fp32.onnx")
    changed = gather_in_fp32(tmp_path)
    assert (changed.tower, changed.tower_is_int8) == (tmp_path / "fp32.onnx", False)


def test_wrong_answers_are_found(direct):
    right = answer(direct, 7)
    assert "different items" in direct.fault(7, right[:-1])
    assert "different items" in direct.fault(7, [right[0], *right[:-1]])
    assert direct.fault(7, right[::-1]) == "scores that rise"
    seen = int(direct.item_ids[direct.history(7, ())[0]])
    assert "seen" in direct.fault(7, [{"item_id": seen, "score": right[0]["score"]}, *right[1:]])
    assert "off" in direct.fault(7, [{**right[0], "score": right[0]["score"] + 2}, *right[1:]])


def test_an_answer_may_lack_one_item_but_not_go_far_below(direct):
    longer = answer(direct, 7, k=K + 40)
    assert direct.fault(7, [*longer[1 : K + 1]]) == ""
    assert longer[K]["score"] > longer[-1]["score"] + TOLERANCE
    assert "below the last place" in direct.fault(7, [*longer[: K - 1], longer[-1]])


def test_the_answer_of_another_user_is_wrong(direct):
    found = [bool(direct.fault(user_id, answer(direct, user_id + 1))) for user_id in range(1, 60)]
    assert np.mean(found) > 0.9


def test_an_answer_without_the_latest_event_is_found_by_its_scores(direct):
    found = []
    for user_id in range(1, 40):
        stale = answer(direct, user_id)
        taken = {item["item_id"] for item in stale}
        posted = next(int(i) for i in direct.item_ids[::-1] if int(i) not in taken)
        found.append("off" in direct.fault(user_id, stale, posted=[posted]))
    assert np.mean(found) > 0.9


def test_an_answer_that_recommends_the_latest_event_is_found(direct):
    stale = answer(direct, 9)
    assert "seen" in direct.fault(9, stale, posted=[stale[0]["item_id"]])


@pytest.mark.skipif(not RedisProcess.available(), reason="needs redis-server")
def test_redis_is_killed_and_started_again():
    with RedisProcess() as server:
        server.kill()
        server.start()
        assert server.process.poll() is None
    assert server.process.poll() is not None


def test_faults_lose_nothing_and_answer_nothing_wrong(served, tmp_path):
    parts = [served.served, served.parts[bundles.CHOSEN]]
    report = soak(parts, tmp_path, requests=400, rate=60, rounds=1, sample=100)
    assert report.answered + report.refused == 400
    assert (report.lost, report.server_errors, report.events_missing) == (0, 0, 0)
    assert report.tracebacks == 0, (tmp_path / "server.log").read_text()
    assert len(report.rss_mib) == 1
    assert not report.faults
    assert report.passed
    assert (report.killed, report.reloads) == (1, 1)
    assert report.redis_stops == int(RedisProcess.available())
    assert report.cut > 5
    assert report.events > 5
    assert report.compared > 50


def test_a_client_that_is_cut_off_sends_a_request_that_would_be_answered(tmp_path):
    with serving(build(tmp_path), tmp_path) as running:
        address = urlsplit(running.url)
        with socket.create_connection((address.hostname, address.port), 10) as connection:
            connection.sendall(_message({"user_id": USER_IDS[0]}))
            assert connection.recv(12) == b"HTTP/1.1 200"


COMPLETE = Report(
    rounds=2,
    killed=2,
    reloads=2,
    answered=900,
    refused=100,
    compared=100,
    cut=9,
    rss_mib=[200, 215],
)


def test_a_complete_report_without_a_loss_passes():
    assert COMPLETE.passed


@pytest.mark.parametrize(
    "values",
    [
        {"lost": 1},
        {"server_errors": 1},
        {"events_missing": 1},
        {"tracebacks": 1},
        {"faults": Counter({"scores that rise": 1})},
        {"compared": 0},
        {"cut": 0},
        {"refused": 900},
        {"killed": 1},
        {"reloads": 1},
        {"rss_mib": [200.0]},
        {"rss_mib": [200.0, 230.0]},
    ],
)
def test_a_report_with_a_loss_a_missing_fault_or_grown_memory_does_not_pass(values):
    assert not dataclasses.replace(COMPLETE, **values).passed
