"""A small run with faults over real sockets, and the judge, which can fail. 20 s."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from nanorecsys.loadtest import faults
from nanorecsys.loadtest.faults import (
    CANDIDATES,
    TOLERANCE,
    Direct,
    K,
    RedisProcess,
    in_fp32,
    run_faults,
)
from nanorecsys.serving.bundle import build_bundle
from nanorecsys.serving.padding import padded

pytestmark = pytest.mark.timed


@pytest.fixture(scope="module")
def direct(served, tmp_path_factory):
    folder = tmp_path_factory.mktemp("direct") / "bundle"
    build_bundle(folder, in_fp32(served.changed[served.final]))
    return Direct(folder)


def answer(direct, user_id, posted=(), k=K):
    """The right answer."""
    history = direct.history(user_id, posted)
    user = direct.user(history)
    found = direct.bundle.index.search(user, 2 * CANDIDATES)[1][0]
    kept = found[(found >= 0) & ~np.isin(found, history)][:CANDIDATES]
    scores = direct.scores(user, kept)
    best = np.argsort(-scores)[:k]
    return [{"item_id": int(direct.item_ids[kept[i]]), "score": float(scores[i])} for i in best]


def test_the_direct_answer_is_right(direct):
    for user_id in range(1, 40):
        assert direct.wrong(user_id, answer(direct, user_id)) == ""


def test_the_company_of_a_batch_changes_no_score(direct, served):
    users = np.arange(40)
    together = direct.bundle.encoder(
        *padded(direct.bundle.histories, users, direct.bundle.manifest.events_read)
    )
    items = np.arange(100)
    for user in users:
        alone = direct.scores(direct.user(direct.history(int(user) + 1, ())), items)
        assert np.abs(direct.scores(together[user : user + 1], items) - alone).max() < TOLERANCE / 4
    changed = in_fp32(served.changed[served.final])
    assert (changed.tower, changed.tower_is_int8) == (changed.tower_fp32, False)


def test_wrong_answers_are_found(direct):
    right = answer(direct, 7)
    assert "different items" in direct.wrong(7, right[:-1])
    assert "different items" in direct.wrong(7, [right[0], *right[:-1]])
    assert direct.wrong(7, right[::-1]) == "scores that rise"
    seen = int(direct.item_ids[direct.history(7, ())[0]])
    assert "seen" in direct.wrong(7, [{"item_id": seen, "score": right[0]["score"]}, *right[1:]])
    assert "off" in direct.wrong(7, [{**right[0], "score": right[0]["score"] + 2}, *right[1:]])


def test_an_answer_may_lack_one_item_but_not_go_far_below(direct):
    longer = answer(direct, 7, k=K + 40)
    assert direct.wrong(7, [*longer[1 : K + 1]]) == ""
    assert longer[K]["score"] > longer[-1]["score"] + TOLERANCE
    assert "below the last place" in direct.wrong(7, [*longer[: K - 1], longer[-1]])


def test_the_answer_of_another_user_is_wrong(direct):
    found = [bool(direct.wrong(user_id, answer(direct, user_id + 1))) for user_id in range(1, 60)]
    assert np.mean(found) > 0.9


def test_an_answer_without_the_latest_event_is_found_by_its_scores(direct):
    found = []
    for user_id in range(1, 40):
        stale = answer(direct, user_id)
        taken = {item["item_id"] for item in stale}
        posted = next(int(i) for i in direct.item_ids[::-1] if int(i) not in taken)
        found.append("off" in direct.wrong(user_id, stale, posted=[posted]))
    assert np.mean(found) > 0.9


def test_an_answer_without_the_latest_event_is_found_where_it_recommends_it(direct):
    stale = answer(direct, 9)
    assert "seen" in direct.wrong(9, stale, posted=[stale[0]["item_id"]])


@pytest.mark.skipif(not RedisProcess.available(), reason="needs redis-server")
def test_redis_is_killed_and_started_again():
    with RedisProcess() as server:
        server.kill()
        server.start()
        assert server.process.poll() is None
    assert server.process.poll() is not None


def test_the_worker_that_is_killed_is_the_one_with_the_clients():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        idle = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        assert faults._clients(os.getpid()) >= 2
        assert faults._clients(idle.pid) == 0
        idle.communicate(b"\n")
    assert faults._clients(idle.pid) == 0  # it has gone


def test_faults_lose_nothing_and_answer_nothing_wrong(bench):
    found, printed = run_faults(bench, requests=500, rounds=1, compare=100, rate=60)
    rows = bench.frame()
    assert found.requests == len(rows)
    assert printed.count("Traceback") == found.tracebacks
    assert found.workers_killed == 1
    assert found.reloads == 1
    assert found.cache_stops == (1 if RedisProcess.available() else 0)
    assert found.clients_cut > 5
    assert found.lost == found.server_errors == found.events_missing == found.wrong == 0
    assert found.answered + found.refused == found.requests
    assert found.events_acknowledged > 5
    assert found.compared > 50
    assert found.rss_before_mib > 0
    assert len(found.rss_mib) == 1
    assert found.rss_growth is None
    assert len({w for w in rows["worker"] if w > 0}) >= 2
    assert bench.rows[-1].scenario == "faults"


def told_of(memory):
    """Two rounds, and memory as a function of the share of the run."""
    return faults._Told(
        rss=[(s / 1000, memory(s / 1000)) for s in range(1001)], rounds=[(0.1, 0.2), (0.5, 0.6)]
    )


def test_memory_is_compared_at_the_same_distance_from_a_round():
    def climbs(share):
        """Anew after each round, on and on after the last."""
        return 100.0 + 1000 * (
            share if share < 0.2 else share - 0.2 if share < 0.6 else share - 0.6
        )

    first, last = faults._memory(told_of(climbs))
    assert first == pytest.approx(last, rel=0.01)
    assert first == pytest.approx(
        325, rel=0.01
    )  # three quarters of the pause, which is .3 of the run
    assert faults._memory_before(told_of(climbs)) == pytest.approx(150, rel=0.01)


def test_memory_that_a_round_leaves_behind_is_seen():
    assert faults._memory(told_of(lambda share: 100.0 if share < 0.6 else 150.0)) == [100.0, 150.0]


def test_memory_of_a_run_that_ended_before_its_first_round():
    assert faults._memory(faults._Told(rss=[(0.0, 100.0), (1.0, 120.0)])) == [120.0]
