"""What queueing alone makes of the measured service times: a discrete-event simulation of the server.

For one first-come-first-served queue the waiting time follows Lindley's recursion (Lindley 1952,
The theory of queues with a single server). Here several things bend it, and each is in the model:
requests from the cache pass by the queue, compute threads take micro-batches of like length, the
queue is bounded, and everything shares a few cores.

Event loops, generator and compute threads take a core when they get work, whether it is idle or
not, and share it by weight with those who are there. A core without work takes over one that waits
elsewhere when it next looks: from time to time, and when it has just run out of work as often as
that has been of use, as Linux does. A pool of cores that all share at every moment would be kinder
than the system is: there most of the time that computing takes beyond its own work is spent on a
core with others while the other core is idle. Work that wakes an idle core costs more than on one
that is at work, and so does what a core begins at the moment that such work ends there; a thread
gets its next batch from the event loop, when that has seen the last.

Event loop and compute threads are one interpreter's, of whose lock there is one. A thread needs it
to take a batch, and again after each of the calls that encode, retrieve and rank; the loop has it
while it works, and lets go when it has nothing to do, or is asked to after the interpreter's switch
interval. What a thread does with the lock is so short beside its calls that the loop is not made to
wait for it.

Nothing of the rate sweep that is predicted enters: what work costs is measured where requests come
so seldom that they hardly ever meet, and where cores are never idle. In the latter it is CPU time,
and what two cores at work take from one another is in it. In the former it is the time that
computing took: what it took beyond its work is no other request's doing but the machine's, which
may have to wake and may have other guests. Nor is any figure fitted to the sweep: how often an idle
core looks is what Linux begins with, a millisecond for each core of the domain
(kernel/sched/topology.c, sd_init: min_interval).
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.engine import Engine, Query

# Where a request's time goes, in the order of the columns of `Simulated.stages`.
STAGES = ("generator", "loop", "queue", "compute")
_GENERATOR = 0
_SEND, _HOT, _IN, _OUT, _RECEIVE = range(5)
_CALLS = 3  # encode, retrieve and rank: each lets go of the interpreter's lock
_NEAR = 3  # samples to either side of a length that may stand for it
_IDLE = (
    3 / 1024
)  # weight of a SCHED_IDLE thread over one with nice 0: kernel/sched/sched.h, WEIGHT_IDLEPRIO


@dataclass(frozen=True, eq=False)
class Costs:
    """Times in ms of one request.

    Args:
        lengths: int (n,), events of the histories that were sampled.
        compute_ms: float (n,), encode, retrieve and rank of each.
        hot_ms: of the event loop for an answer from the cache.
        cold_ms: of the event loop for one that is computed.
        generator_ms: of the generator.
    """

    lengths: np.ndarray
    compute_ms: np.ndarray
    hot_ms: float
    cold_ms: float
    generator_ms: float

    def draw(self, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Compute times in ms of histories, int (m,): each that of one of the sampled ones of about its length."""
        order = np.argsort(self.lengths, kind="stable")
        known = self.lengths[order]
        low, high = (
            np.searchsorted(known, lengths, "left"),
            np.searchsorted(known, lengths, "right"),
        )
        place = rng.integers(np.maximum(low - _NEAR, 0), np.minimum(high + _NEAR, len(known)))
        return self.compute_ms[order[place]]


@dataclass(frozen=True, eq=False)
class Service:
    """What requests cost.

    Args:
        busy: on a core that is at work.
        idle: of work that wakes an idle core, with what else it waits for there.
        batch_cost: cost of a batch of 1, 2, ... over that of its requests one by one.
        wire_ms: what else a client waits for.
    """

    busy: Costs
    idle: Costs
    batch_cost: Sequence[float] = (1.0,)
    wire_ms: float = 0.0


@dataclass(frozen=True)
class Machine:
    """What serves.

    Args:
        cores: that all share.
        workers: processes, each with an event loop and a queue.
        threads: compute threads of each; 0: the loop computes.
        max_batch: requests computed at once,
        window: and events of them, the longest's for each.
        max_queue: that wait in a worker.
        deadline_ms: longest wait,
        standing: and the share of it that is allowed
        standing_ms: until so long after somebody was turned away for it.
        alike: lengths of a batch differ by this factor at most, or by `short`.
        short: see `alike`.
        compute_weight: of a compute thread's claim to a core, where the loop and the generator have
            1.
        look_ms: how often an idle core looks for who waits on another; 0: at once, and who wakes
            takes an idle core.
        switch_ms: after which an event loop at work gives up the interpreter's lock to a thread
            that asks for it.
    """

    cores: int = 2
    workers: int = 1
    threads: int = 2
    max_batch: int = 8
    window: int = 200
    max_queue: int = 64
    deadline_ms: float = 75.0
    standing: float = 0.25
    standing_ms: float = 250.0
    alike: float = 1.25
    short: int = 8
    compute_weight: float = _IDLE
    look_ms: float = 2.0
    switch_ms: float = 5.0


@dataclass(frozen=True, eq=False)
class Simulated:
    """One row a request, in the order of arrival.

    latency_ms float64 (n,), NaN where it was turned away; stages float64 (n, 4), see `STAGES`, each
    from the moment that it could have begun: what waits for a core waits in its stage.
    """

    latency_ms: np.ndarray
    stages: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """Percentiles in ms of the answered, and the share of requests that were turned away."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    refused: float


def predict(
    service: Service,
    machine: Machine,
    rate: float,
    cold_share: float,
    requests: int,
    seed: int,
    warm_up: float = 0.1,
) -> Prediction:
    """Percentiles at an offered rate of Poisson arrivals.

    Args:
        rate: requests a second.
        cold_share: of requests that are computed.
        requests: simulated.
        seed: of arrivals and service.
        warm_up: share of the first requests that is left out.
    """
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1e3 / rate, requests))
    lengths = rng.choice(service.busy.lengths, requests)
    found = simulate(arrivals, rng.random(requests) >= cold_share, lengths, service, machine, rng)
    return prediction(found.latency_ms[int(warm_up * requests) :])


def prediction(latency_ms: np.ndarray) -> Prediction:
    """Percentiles of simulated latencies, NaN where a request was turned away."""
    answered = latency_ms[~np.isnan(latency_ms)]
    if not len(answered):
        return Prediction(np.inf, np.inf, np.inf, 1.0)
    p50, p95, p99 = np.percentile(answered, (50, 95, 99))
    return Prediction(float(p50), float(p95), float(p99), 1 - len(answered) / len(latency_ms))


def simulate(
    arrivals_ms: np.ndarray,
    hot: np.ndarray,
    lengths: np.ndarray,
    service: Service,
    machine: Machine,
    rng: np.random.Generator,
) -> Simulated:
    """Follow every request.

    Args:
        arrivals_ms: float (n,), ascending.
        hot: bool (n,), answered from the cache.
        lengths: int (n,), events of the history of each.
        service: the times.
        machine: what serves.
        rng: draws each computed request's time among those of its length, its worker, and the
            cores.
    """
    return _Run(arrivals_ms, hot, lengths, service, machine, rng).go()


def calibrate(bundle: Path, max_batch: int, calls: int = 24) -> list[float]:
    """What a request sent alone does not tell: what a batch saves, measured on the server's engine itself.

    Args:
        bundle: its folder.
        max_batch: the largest batch.
        calls: of each batch size and length, in turn with single requests; medians count.

    Returns:
        the cost of batches of 1, 2, ... `max_batch` over that of their requests one by one, in the
        mean of batches that have as many events as one may have, and half as many.
    """
    engine = Engine(bundle)
    rng = np.random.default_rng(0)

    def call(batch: int, length: int) -> int:
        """Nanoseconds of one batch."""
        queries = [
            Query(history, exclude_seen=True)
            for history in rng.integers(0, engine.bundle.manifest.n_items, (batch, length))
        ]
        start = time.perf_counter_ns()
        engine(queries)
        return time.perf_counter_ns() - start

    def saved(batch: int, length: int) -> float:
        return float(
            np.median([call(batch, length) / (batch * call(1, length)) for _ in range(calls)])
        )

    sizes = sorted({1, 2, 4, max_batch} & set(range(1, max_batch + 1)))
    ratio = [
        1.0,
        *(
            np.mean([saved(n, max(engine.window // (n * part), 1)) for part in (1, 2)])
            for n in sizes[1:]
        ),
    ]
    return np.minimum(np.interp(np.arange(1, max_batch + 1), sizes, ratio), 1.0).tolist()


class _Run:
    """The state of one simulation. Actors are the generator, then the loops, then the compute threads.

    A task is what an actor does (`_SEND`, ..., or a batch) and for whom; it works on one at a time.
    """

    def __init__(
        self,
        arrivals: np.ndarray,
        hot: np.ndarray,
        lengths: np.ndarray,
        service: Service,
        machine: Machine,
        rng: np.random.Generator,
    ) -> None:
        n = len(arrivals)
        self.arrivals, self.hot, self.length = arrivals.tolist(), hot.tolist(), lengths.tolist()
        self.costs = (service.busy, service.idle)  # by whether it wakes an idle core
        self.compute = [costs.draw(lengths, rng).tolist() for costs in self.costs]
        self.worker = rng.integers(0, machine.workers, n).tolist()
        self.service, self.machine = service, machine
        self.first_thread = 1 + machine.workers
        actors = self.first_thread + machine.workers * machine.threads
        self.tasks: list[deque] = [
            deque() for _ in range(self.first_thread)
        ]  # of the generator and the loops
        self.now_at: list[tuple | None] = [None] * actors  # (kind, requests) that an actor works on
        self.left = [0.0] * actors
        self.calls = [0] * actors  # that a compute thread has still to make for its batch,
        self.call_ms = [0.0] * actors  # and the work of each
        self.asking: dict[
            int, tuple[tuple, float]
        ] = {}  # for the interpreter's lock: what for, since when
        self.waiting: list[deque[int]] = [deque() for _ in range(machine.workers)]
        self.late = [
            -np.inf
        ] * machine.workers  # when somebody was last turned away for the deadline
        self.unseen: dict[
            int, int
        ] = {}  # threads that are done, unseen by the loop: by their first request
        self.stages = np.zeros((n, len(STAGES)))
        self.since = arrivals.tolist()  # when a request entered its stage
        self.done = np.full(n, np.nan)
        self.weight = [1.0] * self.first_thread + [machine.compute_weight] * (
            actors - self.first_thread
        )
        self.core = [0] * actors  # where an actor works, or did last
        self.at = [0] * machine.cores  # how many work on each core,
        self.ended = [
            (-np.inf, True)
        ] * machine.cores  # when something ended there last, and whether that had woken it
        self.woke = [False] * actors  # whether what an actor works on has woken an idle core
        self.looked = self.found = (
            1  # times that a core that ran out of work looked for some, and found it
        )
        self.rng = rng

    def go(self) -> Simulated:
        now, following, n, every = 0.0, 0, len(self.arrivals), self.machine.look_ms
        next_look = every or np.inf
        while (busy := self.busy()) or self.asking or following < n:
            speeds = self.speeds(busy)
            step = self.arrivals[following] - now if following < n else np.inf
            first = asked = (
                None  # the actor that ends its task before the next request arrives, or gets the lock
            )
            for actor, speed in zip(busy, speeds, strict=True):
                if self.left[actor] / speed < step:
                    step, first = self.left[actor] / speed, actor
            for actor, (_, since) in self.asking.items():
                wait = since + self.machine.switch_ms - now
                if wait < step:
                    step, first, asked = wait, None, actor
            looks = next_look - now < step
            step = max(min(step, next_look - now), 0.0)
            for actor, speed in zip(busy, speeds, strict=True):
                self.left[actor] -= step * speed
            now += step
            if looks:
                next_look += every
                self.balance()
                continue
            if asked is not None:
                self.proceed(asked, now, goes_on=False)
            elif first is None:
                self.give(_GENERATOR, _SEND, following)
                following += 1
            else:
                task, self.now_at[first] = self.now_at[first], None
                self.at[self.core[first]] -= 1
                self.ended[self.core[first]] = now, self.woke[first]
                if first < self.first_thread:
                    self.finish(first, task, now)
                else:
                    self.asking[first] = task, now
            self.start(now, goes_on=first)
            if not every:
                self.balance()
            elif first is not None and self.now_at[first] is None:
                self.look(self.core[first])
        latency = self.done - np.array(self.arrivals) + self.service.wire_ms
        return Simulated(latency, self.stages)

    def busy(self) -> list[int]:
        """Actors that have something to do."""
        return [actor for actor, task in enumerate(self.now_at) if task is not None]

    def speeds(self, busy: list[int]) -> list[float]:
        """How fast each works: its share of its core."""
        claims = [0.0] * self.machine.cores
        for actor in busy:
            claims[self.core[actor]] += self.weight[actor]
        return [self.weight[actor] / claims[self.core[actor]] for actor in busy]

    def balance(self) -> None:
        """Cores without work look for some."""
        for core in range(self.machine.cores):
            self.take_over(core)

    def look(self, core: int) -> None:
        """So does one that may have just run out of it, as often as that has been of use."""
        if not self.at[core] and self.rng.random() * self.looked < self.found:
            self.looked += 1
            self.found += self.take_over(core)

    def take_over(self, core: int) -> bool:
        """Give a core without work one actor from where most are; whether there was one."""
        most = max(self.at)
        if self.at[core] or most < 2:
            return False
        fullest = self.at.index(most)
        self.core[max(actor for actor in self.busy() if self.core[actor] == fullest)] = core
        self.at[fullest] -= 1
        self.at[core] += 1
        return True

    def place(self) -> int:
        """The core of an actor that wakes."""
        if not self.machine.look_ms and 0 in self.at:
            return self.at.index(0)
        return int(self.rng.integers(self.machine.cores))

    def give(self, actor: int, kind: int, request: int) -> None:
        self.tasks[actor].append((kind, request))

    def enter(self, request: int, stage: int, now: float) -> None:
        """The request leaves `stage` now."""
        self.stages[request, stage] += now - self.since[request]
        self.since[request] = now

    def finish(self, actor: int, task: tuple, now: float) -> None:
        """What follows when an actor has done a task."""
        kind, who = task
        if actor >= self.first_thread:
            self.unseen[who[0]] = actor
            for request in who:
                self.enter(request, 3, now)
                self.give(1 + self.worker[request], _OUT, request)
        elif kind == _SEND:
            self.enter(who, 0, now)
            self.give(1 + self.worker[who], _HOT if self.hot[who] else _IN, who)
        elif kind == _RECEIVE:
            self.enter(who, 0, now)
            self.done[who] = now
        elif kind == _IN and self.machine.threads:
            self.enter(who, 1, now)
            queue = self.waiting[self.worker[who]]
            if len(queue) < self.machine.max_queue:
                queue.append(who)
        else:  # the answer leaves the server
            self.enter(who, 1, now)
            self.give(_GENERATOR, _RECEIVE, who)

    def start(self, now: float, goes_on: int | None) -> None:
        """Give idle actors what waits for them; all but the one that goes on, having just ended a task, wake for it."""
        for actor, tasks in enumerate(self.tasks):
            if self.now_at[actor] is None and tasks:
                kind, who = tasks.popleft()
                if kind == _OUT:
                    self.unseen.pop(who, None)
                self.begin(actor, (kind, who), now, goes_on)
        threads, unseen = self.machine.threads, self.unseen.values()
        for worker in range(self.machine.workers):
            queue = self.waiting[worker]
            for actor in range(
                self.first_thread + worker * threads, self.first_thread + (worker + 1) * threads
            ):
                free = (
                    self.now_at[actor] is None and actor not in self.asking and actor not in unseen
                )
                if queue and free and (batch := self.batch(worker, now)):
                    self.asking[actor] = (None, batch), now
        for actor in list(self.asking):
            if (
                self.now_at[1 + (actor - self.first_thread) // threads] is None
            ):  # the loop has nothing to do
                self.proceed(actor, now, goes_on=actor == goes_on)

    def proceed(self, actor: int, now: float, goes_on: bool) -> None:
        """A compute thread has the interpreter's lock: it begins its batch, or its next call, or is done."""
        task, _ = self.asking.pop(actor)
        if self.calls[actor] == 1:
            self.calls[actor] = 0
            self.finish(actor, task, now)
            self.start(now, None)
            return
        self.calls[actor] = self.calls[actor] - 1 if self.calls[actor] else _CALLS
        self.begin(actor, task, now, actor if goes_on else None)

    def begin(self, actor: int, task: tuple, now: float, goes_on: int | None) -> None:
        """Let an actor work on a task."""
        idle = False
        if actor != goes_on:
            self.core[actor] = self.place()
            ended, woke = self.ended[self.core[actor]]
            idle = not self.at[self.core[actor]] and (ended < now or woke)
        self.at[self.core[actor]] += 1
        self.now_at[actor] = task
        kind, who = task
        if actor < self.first_thread:
            self.woke[actor] = idle
            self.left[actor] = self.work(kind, who, idle)
            return
        if self.calls[actor] == _CALLS:
            self.woke[actor] = idle
            self.call_ms[actor] = self.cost(who, idle) / _CALLS
        self.left[actor] = self.call_ms[actor]

    def work(self, kind: int, request: int, idle: bool) -> float:
        """Of the generator or a loop."""
        costs = self.costs[idle]
        if kind in (_SEND, _RECEIVE):
            return costs.generator_ms / 2
        if kind == _HOT:
            return costs.hot_ms
        if self.machine.threads:
            return costs.cold_ms / 2
        return costs.cold_ms + self.compute[idle][request]

    def batch(self, worker: int, now: float) -> list[int]:
        """The oldest that may still be computed, with others of about its length."""
        machine, queue = self.machine, self.waiting[worker]
        stands = now - self.late[worker] < machine.standing_ms
        allowed = machine.deadline_ms * (machine.standing if stands else 1.0)
        while queue and now - self.since[queue[0]] > allowed:
            queue.popleft()
            self.late[worker] = now
        if not queue:
            return []
        batch = [queue.popleft()]
        own = longest = self.length[batch[0]]
        for request in list(queue) if machine.max_batch > 1 else ():
            length = self.length[request]
            short, long = sorted((own, length))
            room = min(machine.max_batch, machine.window // max(longest, length))
            if len(batch) < room and long <= max(short * machine.alike, short + machine.short):
                batch.append(request)
                queue.remove(request)
                longest = max(longest, length)
        for request in batch:
            self.enter(request, 2, now)
        return batch

    def cost(self, batch: Sequence[int], idle: bool) -> float:
        """Work of a batch: its requests one by one, each as long as the longest, times the cost law."""
        law = self.service.batch_cost
        longest = max(self.length[r] for r in batch)
        alone = sum(self.compute[idle][r] * longest / self.length[r] for r in batch)
        return alone * law[min(len(batch), len(law)) - 1]
