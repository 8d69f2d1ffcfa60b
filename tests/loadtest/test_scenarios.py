"""Scenarios: the search for the largest rate, with a generator whose outcome is known; all of them once for real."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from nanorecsys.loadtest import scenarios
from nanorecsys.loadtest.errors import PlanError, PopulationError, UnreachableError
from nanorecsys.loadtest.generator import Interrupted, Run
from nanorecsys.loadtest.plan import Finished, Plan
from nanorecsys.loadtest.process import free_port
from nanorecsys.loadtest.scenarios import Load
from nanorecsys.loadtest.summary import INVALID, VALID, VOID, Lag, Verdict, summarize
from nanorecsys.loadtest.workload import Workload
from tests.loadtest.small_server import SmallServer, at_once, fine, serial

pytestmark = pytest.mark.timed

WORKLOAD = Workload(20_000, hot_users=50, cold_share=0.3, seed=0)


class Outcomes:
    """Stands in for `run_plan`: a verdict by the plan, and what was planned."""

    def __init__(self, verdict: Callable[[Plan], str]) -> None:
        self.verdict = verdict
        self.plans: list[Plan] = []
        self.cold: list[set[int]] = []

    def __call__(self, plan: Plan, progress: object) -> Run:
        self.plans.append(plan)
        users, hot = np.load(plan.users), np.load(plan.hot)
        self.cold.append(set(users[~hot].tolist()))
        n = len(users)
        now = np.arange(n)
        rows = pl.DataFrame(
            {
                "intended_ns": now,
                "sent_ns": now,
                "done_ns": now + 1_000_000,
                "hot": hot,
                "status": np.full(n, 200),
            }
            | {"source": ["model"] * n, "worker": now * 0, "retries": now * 0, "warm_up": now < 0}
        )
        path = Path(plan.out) / "rows.parquet"
        rows.write_parquet(path)
        kind = self.verdict(plan)
        run = Run(
            plan=plan,
            rows=path,
            finished=Finished(
                begin_ns=0, end_ns=10**9, cpu_s=0.1, interrupted=False, failures={}, nice=0
            ),
            summary=summarize(rows, 0, 10**9),
            lag=Lag(0.0, 0.0, 0.0),
            verdict=Verdict(kind, [] if kind == VALID else ["it was so"]),
            server_cpu_s=1.0,
            server_rss_mib=None,
        )
        if kind == "stop":
            raise Interrupted(run)
        return run


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Search with outcomes by plan; returns the result and the outcomes."""

    def find(verdict: Callable[[Plan], str], **arguments: object):
        outcomes = Outcomes(verdict)
        monkeypatch.setattr(scenarios, "run_plan", outcomes)
        with SmallServer(at_once) as server:
            load = Load(server.url, WORKLOAD, np.arange(20_000), tmp_path / "search")
        given = {
            "start_rate": 100.0,
            "seconds": 1.0,
            "warm_up_s": 0.0,
            "confirm_s": 3.0,
            **arguments,
        }
        return scenarios.server(load, **given), outcomes

    return find


def under(rate: float) -> Callable[[Plan], str]:
    return lambda plan: VALID if plan.rate <= rate else INVALID


@pytest.mark.parametrize("capacity", [1234.0, 100.0, 37.0, 2.0])
def test_the_largest_rate_is_found_to_the_precision(search, capacity: float) -> None:
    found, outcomes = search(under(capacity), precision=0.05)
    assert found.rate <= capacity <= found.rate * 1.05
    assert found.verdict == VALID
    confirmed = found.tries[found.confirmed]
    assert (confirmed.step, confirmed.rate) == ("confirm", found.rate)
    assert outcomes.plans[-1].seconds == 3.0
    assert len(found.tries) == len(outcomes.plans) <= 16
    assert "it was so" in found.limit
    assert all(plan.fail_fast for plan in outcomes.plans)


def test_each_try_has_cold_users_and_arrivals_of_its_own(search) -> None:
    _, outcomes = search(under(300))
    assert len(set.union(*outcomes.cold)) == sum(map(len, outcomes.cold)) > 500
    assert len({plan.seed for plan in outcomes.plans}) == len(outcomes.plans)


def test_a_rate_that_is_not_confirmed_steps_down(search) -> None:
    def verdict(plan: Plan) -> str:
        return VALID if plan.rate <= (400 if plan.seconds == 1 else 370) else INVALID

    found, _ = search(verdict, step_down=0.03)
    steps = [t for t in found.tries if t.step == "confirm"]
    assert [t.verdict for t in steps] == [INVALID] * (len(steps) - 1) + [VALID]
    assert 0.97 * 370 <= found.rate <= 370
    assert steps[1].rate == pytest.approx(0.97 * steps[0].rate)


def test_where_nothing_is_confirmed_there_is_no_rate(search) -> None:
    found, _ = search(
        lambda plan: VALID if plan.seconds == 1 and plan.rate < 200 else INVALID, confirmations=3
    )
    assert (found.rate, found.confirmed, found.verdict) == (0.0, None, INVALID)
    assert [t.step for t in found.tries].count("confirm") == 3


def test_where_no_rate_is_valid_it_ends(search) -> None:
    found, outcomes = search(lambda plan: INVALID, lowest=10.0)
    assert (found.rate, found.confirmed) == (0.0, None)
    assert [plan.rate for plan in outcomes.plans] == [100, 50, 25, 12.5]


def test_a_void_try_is_made_again_once(search) -> None:
    void: list[float] = []

    def verdict(plan: Plan) -> str:
        if plan.rate == 200 and not void:
            void.append(plan.rate)
            return VOID
        return VALID if plan.rate <= 200 else INVALID

    found, _ = search(verdict)
    assert found.rate == 200
    assert [t.verdict for t in found.tries if t.rate == 200 and t.step == "bracket"] == [
        VOID,
        VALID,
    ]


def test_a_generator_that_is_always_late_is_the_limit(search) -> None:
    found, _ = search(lambda plan: VALID if plan.rate < 300 else VOID)
    assert found.rate < 300
    above = [t for t in found.tries if t.rate > found.rate]
    assert {t.verdict for t in above} == {VOID}


def test_a_try_that_is_short_needs_fewer_requests(search) -> None:
    _, outcomes = search(under(150), minimum=400)
    assert outcomes.plans[0].minimum == 50
    assert outcomes.plans[-1].minimum == 400


def test_ctrl_c_keeps_the_tries(search) -> None:
    with pytest.raises(Interrupted) as stopped:
        search(lambda plan: VALID if plan.rate < 300 else "stop")
    assert [t.rate for t in stopped.value.search.tries] == [100, 200]


def test_the_result_is_a_record(search) -> None:
    found, _ = search(under(150))
    assert msgspec.json.decode(msgspec.json.encode(found), type=scenarios.Search) == found


@pytest.mark.parametrize(
    "bad", [{"start_rate": 0.0}, {"precision": 0.0}, {"step_down": 1.0}, {"confirm_s": 0.0}]
)
def test_bad_searches_are_named(search, bad: dict) -> None:
    with pytest.raises(PlanError, match="Mend the arguments"):
        search(under(1), **bad)


def test_every_scenario_runs(tmp_path: Path) -> None:
    """A server of at most 500 requests/s."""
    seen: list[str] = []
    with SmallServer(serial(0.002)) as server:
        tell = {"progress": lambda name, _: seen.append(name)}
        load = Load(
            server.url, WORKLOAD, np.arange(20_000), tmp_path, minimum=1, connections=4, **tell
        )
        single = scenarios.single_stream(load, 0.3)
        several = scenarios.closed_loop(load, 8, 0.6)
        offline = scenarios.offline(load, 100)
        opened = [scenarios.open_loop(load, rate, 0.3) for rate in (50, 100)]
    assert [run.plan.mode for run in load.runs] == ["closed", "closed", "offline", "open", "open"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == [
        *("00-single", "01-closed-8", "02-offline", "03-open-50", "04-open-100")
    ]
    assert (
        several.summary.latency.p50_ms > 3 * single.summary.latency.p50_ms
    )  # they wait for each other
    assert offline.summary.latency.n == 100
    assert opened[1].summary.offered > opened[0].summary.offered
    cold = pl.concat([run.frame() for run in load.runs]).filter(~pl.col("hot"))
    assert cold["user"].is_unique().all()
    assert load.cold_used == len(cold)
    assert seen


def test_caches_are_warm_when_all_hot_users_hit_in_every_worker(tmp_path: Path) -> None:
    """Two workers by the connection's port, each with a cache of its own."""
    caches: dict[int, set[int]] = {0: set(), 1: set()}

    async def answer(request, body: dict, number: int):
        cache = caches[request.transport.get_extra_info("peername")[1] // 2 % 2]
        hit = body["user_id"] in cache
        cache.add(body["user_id"])
        return fine("cache" if hit else "model")

    with SmallServer(answer) as server:
        load = Load(server.url, WORKLOAD, np.arange(20_000), tmp_path)
        share = scenarios.warm_cache(load)
    assert share >= 0.99
    # which worker is asked is up to the ports: the last pass may have passed one by that lacks a
    # few of the 50
    assert max(len(cache & set(WORKLOAD.hot.tolist())) for cache in caches.values()) >= 45
    assert load.cold_used == 0


def test_a_server_without_a_cache_is_asked_twice(tmp_path: Path) -> None:
    with SmallServer(at_once) as server:
        load = Load(server.url, WORKLOAD, np.arange(20_000), tmp_path)
        assert scenarios.warm_cache(load) == 0
        assert len(server.requests) == 100


def test_a_load_without_enough_ids_or_a_server_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="20,000 users, and 5 ids"):
        Load("http://127.0.0.1:1", WORKLOAD, np.arange(5), tmp_path / "out")
    with pytest.raises(UnreachableError):
        Load(f"http://127.0.0.1:{free_port()}", WORKLOAD, np.arange(20_000), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_cold_users_are_named(tmp_path: Path) -> None:
    with SmallServer(at_once) as server:
        load = Load(server.url, Workload(60, hot_users=50, cold_share=1.0), np.arange(60), tmp_path)
        with pytest.raises(PopulationError, match="cold users are wanted"):
            scenarios.open_loop(load, 100, 1)
