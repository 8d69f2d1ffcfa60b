"""The simulation against closed forms, which it can fail, and what it keeps whole. 35 s."""

import math
import sys

import numpy as np
import pytest

from nanorecsys.loadtest.simulation import Costs, Machine, Service, predict, simulate
from server import batching
from server.settings import Settings

N = 20_000
ALONE = {"max_batch": 1, "max_queue": 10**9, "deadline_ms": math.inf, "cores": 10, "look_ms": 0.0}


def service(compute, lengths=None, **more):
    lengths = np.full(len(compute), 10) if lengths is None else lengths
    more = {"hot_ms": 0.0, "cold_ms": 0.0, "generator_ms": 0.0} | more
    batch_cost = more.pop("batch_cost", (1.0,))
    costs = Costs(lengths, compute, **more)
    return Service(costs, costs, batch_cost)


def run(rate, compute, machine, seed=0, n=N, hot=None, **more):
    """Requests of the n service times in order of a Poisson stream, the first tenth left out."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1e3 / rate, n))
    hot = np.zeros(n, bool) if hot is None else hot
    given = service(compute, **more)
    found = simulate(arrivals, hot, rng.choice(given.busy.lengths, n), given, machine, rng)
    return found.latency_ms[n // 10 :]


@pytest.mark.parametrize("load", [0.5, 0.7])
def test_one_thread_with_exponential_service_is_the_mm1_queue(load):
    compute = np.random.default_rng(1).exponential(10.0, N)
    latency = run(100 * load, compute, Machine(threads=1, **ALONE))
    mean = 10.0 / (1 - load)  # and exponential, so its 99th percentile is ln(100) times that
    assert latency.mean() == pytest.approx(mean, rel=0.1)
    assert np.percentile(latency, 99) == pytest.approx(mean * math.log(100), rel=0.15)


def test_one_thread_with_constant_service_is_the_md1_queue():
    latency = run(70, np.full(10, 10.0), Machine(threads=1, **ALONE))
    assert latency.mean() == pytest.approx(10 + 0.7 * 10 / (2 * 0.3), rel=0.05)
    # Crommelin's (1932) distribution of the wait, summed to its 99th percentile
    assert np.percentile(latency - 10, 99) == pytest.approx(md1_wait(0.7, 0.99) * 10, rel=0.12)


def md1_wait(load, q):
    """Quantile of the wait, in service times."""

    def below(t):
        terms = (
            (load * (k - t)) ** k * math.exp(-load * (k - t)) / math.factorial(k)
            for k in range(math.floor(t) + 1)
        )
        return (1 - load) * sum(terms)

    low, high = 0.0, 30.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < q else (low, middle)
    return low


def test_two_threads_are_the_mm2_queue():
    compute = np.random.default_rng(1).exponential(10.0, N)
    latency = run(140, compute, Machine(threads=2, **ALONE))
    load = 0.7
    wait = load**2 / (1 - load**2) * 10.0  # Erlang C for two servers
    assert latency.mean() == pytest.approx(10 + wait, rel=0.06)


def test_many_threads_on_one_core_share_it():
    """Processor sharing has the mean of M/M/1 whatever the service times; a queue of constant ones has half of it."""
    machine = Machine(threads=64, **ALONE | {"cores": 1})
    assert run(60, np.full(10, 10.0), machine, n=15_000).mean() == pytest.approx(10 / 0.4, rel=0.1)


def test_who_wakes_on_a_taken_core_moves_when_an_idle_one_looks():
    """Two requests at a time, on one core half of the time, which they share for at most 4 ms."""
    arrivals = np.repeat(np.cumsum(np.random.default_rng(0).uniform(50, 60, 300)), 2)
    none, lengths = np.zeros(600, bool), np.full(600, 10)
    moved, at_once = (
        simulate(
            arrivals, none, lengths, service(np.full(10, 10.0)), machine, np.random.default_rng(1)
        )
        for machine in (Machine(max_batch=1, look_ms=4.0), Machine(max_batch=1, look_ms=0.0))
    )
    latest = moved.latency_ms.reshape(-1, 2).max(1)
    assert 0.4 < (latest > 10.01).mean() < 0.6
    assert 11.5 < latest.max() <= 12.01
    assert at_once.latency_ms == pytest.approx(10.0)


def test_a_core_that_ran_out_of_work_takes_over_at_once():
    """Hits between two requests wake the other core now and then, which has nothing to do after them."""
    pairs = np.repeat(100.0 * np.arange(300), 2)
    hits = (100.0 * np.arange(300)[:, None] + np.arange(1.0, 9.0)).ravel()
    given, machine = service(np.full(10, 10.0), hot_ms=0.1), Machine(max_batch=1, look_ms=1e9)

    def latest(arrivals, hot):
        order = np.argsort(arrivals, kind="stable")
        found = simulate(
            arrivals[order],
            hot[order],
            np.full(len(arrivals), 10),
            given,
            machine,
            np.random.default_rng(1),
        )
        return found.latency_ms[~hot[order]].reshape(-1, 2).max(1)

    alone = latest(pairs, np.zeros(600, bool))
    with_hits = latest(np.concatenate([pairs, hits]), np.arange(600 + len(hits)) >= 600)
    assert 0.4 < (alone > 19.0).mean() < 0.6
    assert (with_hits > 19.0).mean() < 0.05


def test_work_that_wakes_an_idle_core_costs_more():
    busy, idle = (
        Costs(np.full(5, 10), np.full(5, ms), ms / 10, ms / 5, ms / 20) for ms in (10.0, 20.0)
    )
    given, machine = Service(busy, idle), Machine(look_ms=0.0)
    rng = np.random.default_rng(0)
    seldom = simulate(
        100.0 * np.arange(50), np.zeros(50, bool), np.full(50, 10), given, machine, rng
    )
    assert seldom.latency_ms == pytest.approx(20 + 4 + 1)
    at_once = simulate(np.zeros(50), np.ones(50, bool), np.full(50, 10), given, machine, rng)
    assert at_once.latency_ms.max() == pytest.approx(
        50 * 1.0 + 0.5, abs=2.0
    )  # the loop goes on from one to the next


def test_what_a_core_begins_as_something_ends_there_costs_as_much_as_that_did():
    given = Service(
        *(
            Costs(np.full(5, 10), np.full(5, 1.0), 1.0, 1.0, generator_ms)
            for generator_ms in (1.0, 100.0)
        )
    )
    machine = Machine(cores=1, look_ms=0.0)
    one, two = (
        simulate(
            np.zeros(n), np.ones(n, bool), np.full(n, 10), given, machine, np.random.default_rng(0)
        )
        for n in (1, 2)
    )
    assert one.latency_ms == pytest.approx(50 + 1 + 50)  # it wakes the core, and there is no other
    assert two.latency_ms.max() < 60  # the core has long been at work when the last answer arrives


def test_a_thread_gets_its_next_batch_when_the_event_loop_has_seen_the_last():
    """The loop, at work on a hit from 9 to 14 ms, lets the thread end its batch only then, and begin with the next one
    at 15, when the first has been answered."""
    arrivals, hot = np.array([0.0, 0.0, 9.0]), np.array([False, False, True])
    given = service(np.full(10, 10.0), hot_ms=5.0, cold_ms=2.0)
    machine = Machine(**ALONE | {"threads": 1})
    found = simulate(arrivals, hot, np.full(3, 10), given, machine, np.random.default_rng(0))
    assert found.latency_ms == pytest.approx([15.0, 26.0, 5.0])


@pytest.mark.parametrize(("switch_ms", "ended"), [(0.0, 15.0), (5.0, 55 / 3), (math.inf, 65 / 3)])
def test_a_thread_waits_for_the_lock_while_the_event_loop_works(switch_ms, ended):
    """A hit holds the lock from 3 to 15 ms; the thread asks for it after each third of its 10 ms."""
    arrivals, hot = np.array([0.0, 3.0]), np.array([False, True])
    machine = Machine(**ALONE | {"threads": 1, "switch_ms": switch_ms})
    given = service(np.full(10, 10.0), hot_ms=12.0)
    found = simulate(arrivals, hot, np.full(2, 10), given, machine, np.random.default_rng(0))
    assert found.latency_ms == pytest.approx([ended, 12.0])


def test_hot_requests_pass_the_queue():
    hot = np.arange(N) % 2 == 0
    machine = Machine(threads=1, **ALONE)
    rng = np.random.default_rng(0)
    arrivals = np.cumsum(rng.exponential(1e3 / 150, N))
    found = simulate(
        arrivals, hot, np.full(N, 10), service(np.full(10, 10.0), hot_ms=0.1), machine, rng
    )
    assert np.percentile(found.latency_ms[hot], 99) < 1.0
    assert np.percentile(found.latency_ms[~hot], 50) > 10.0


def test_without_threads_hot_requests_wait_behind_the_loop():
    hot = np.arange(N) % 2 == 0
    blocking = run(150, np.full(10, 10.0), Machine(threads=0, **ALONE), hot=hot, hot_ms=0.1)
    assert np.percentile(blocking, 25) > 5.0


def test_stages_add_up_to_the_latency():
    machine = Machine(threads=2, deadline_ms=math.inf, max_queue=10**9)
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 200, 50)
    given = service(
        lengths * 0.05, lengths, hot_ms=0.1, cold_ms=0.3, generator_ms=0.2, batch_cost=(1.0, 0.9)
    )
    arrivals = np.cumsum(rng.exponential(1e3 / 500, 3000))
    found = simulate(
        arrivals, rng.random(3000) < 0.7, rng.choice(lengths, 3000), given, machine, rng
    )
    assert found.stages.sum(1) == pytest.approx(found.latency_ms, abs=1e-6)
    assert (found.stages >= -1e-9).all()


def test_more_than_capacity_is_turned_away_and_the_rest_is_bounded():
    found = [
        predict(service(np.full(10, 10.0)), machine, 200, 1.0, 4000, 0)
        for machine in (
            Machine(threads=1, max_batch=1, deadline_ms=60.0, max_queue=64, standing=share)
            for share in (1.0, 0.25)
        )
    ]
    assert [one.refused for one in found] == pytest.approx([0.5, 0.5], abs=0.05)
    assert 60 < found[0].p99_ms < 60 + 10 + 5  # all wait until the deadline
    assert 15 < found[1].p99_ms < 15 + 10 + 5  # a part of it, since somebody is always turned away


def test_batches_of_like_length_carry_what_single_requests_do_not():
    lengths = np.repeat([10, 20, 40], 20)
    given = service(lengths * 0.1, lengths, batch_cost=tuple(1 / b**0.5 for b in range(1, 9)))
    single, batched = (
        predict(
            given,
            Machine(threads=1, max_batch=b, deadline_ms=math.inf, max_queue=10**9),
            420,
            1.0,
            5000,
            0,
        )
        for b in (1, 8)
    )
    assert batched.p99_ms < single.p99_ms / 3


def test_long_histories_are_computed_one_by_one():
    lengths = np.full(20, 150)
    given = service(lengths * 0.1, lengths, batch_cost=tuple(1 / b**0.5 for b in range(1, 9)))
    machines = (
        Machine(threads=1, max_batch=b, deadline_ms=math.inf, max_queue=10**9) for b in (1, 8)
    )
    single, batched = (predict(given, machine, 60, 1.0, 3000, 0) for machine in machines)
    assert batched == single


def test_a_request_takes_the_time_of_a_sample_of_its_length():
    lengths = np.repeat([5, 50, 200], 100)
    given = service(lengths * 1.0, lengths)
    asked = np.array([5, 50, 200, 60] * 200)
    drawn = given.busy.draw(asked, np.random.default_rng(0)).reshape(-1, 4)
    assert (np.median(drawn, 0)[:3] == [5, 50, 200]).all()
    assert set(drawn[:, 3]) == {50.0, 200.0}


def test_the_simulated_machine_has_the_defaults_of_the_server():
    machine, settings = Machine(), Settings()
    for name in ("workers", "threads", "max_batch", "max_queue", "deadline_ms"):
        assert getattr(machine, name) == getattr(settings, name)
    assert (machine.standing, machine.standing_ms) == (batching.STANDING, 1e3 * batching.STANDING_S)
    assert machine.switch_ms == 1e3 * sys.getswitchinterval()  # which the server leaves as it is
