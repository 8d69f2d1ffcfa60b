"""What a run of the load generator is told, and what its process tells back. Read by both, so light to import."""

from typing import Literal

import msgspec
import numpy as np

from nanorecsys.loadtest.schedule import poisson

USER = "{user}"  # in a body's template
PLAN, COLUMNS, FINISHED, LOG = "plan.json", "columns.pickle", "finished.json", "generator.log"
BEGIN, END, ENDED = (
    "begin",
    "end",
    "ended",
)  # of the measured part, and of the process with its status: lines of it


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to send, how, and when a run of it is valid.

    Args:
        url: of the server, with scheme, host and port.
        out: folder for the rows.
        mode: open sends on a Poisson schedule, whatever the server does. closed has `concurrency`
            clients, each of which waits for its answer before it asks again. offline has all
            requests due at once, `concurrency` of them at work.
        users: .npy file, int32, the user of each request; an open run needs as many as it has
            arrivals.
        hot: .npy file, bool, of the same length.
        user_ids: .npy file, the id that each user number goes by; int64 or text.
        rate: requests a second of an open run.
        arrivals: .npy file, int64, nanoseconds from the start, ascending: when the requests of an
            open run are due, in place of a Poisson stream at `rate`; empty for that.
        seconds: of the measured part; an offline run goes on until all are answered.
        warm_up_s: before it, discarded.
        concurrency: of closed and offline.
        max_in_flight: of open: a request that is due when so many are in flight is skipped, and
            counted.
        connections: opened before the start; more are opened when all are in use.
        spacing_ms: between openings, so that the connections do not all land on one worker.
        timeout_s: for one attempt.
        retries: after a broken connection, each on a fresh one; a timeout is not tried again.
        path: of the request.
        body: template in which {user} becomes the user's id as JSON; empty for one of `k` and
            `degrade`.
        k, degrade: of the default body.
        seed: of the schedule.
        keep_every: keep the body of every so-manieth answer; 0 keeps none.
        pids: roots of the server's process trees, whose CPU time and memory are measured.
        bound_ms, percentile: what latency, counted from the intended time, must not pass; offline
        has no bound.
        fail_fast: of open: send no more once a measured request has failed, since no length makes
            such a run valid.
        minimum: measured requests, below which a run is not valid; 1,000 leave 10 beyond a 99th
            percentile.
        allow_remote: load a host that is not loopback.
        nice: of the generator, where the system allows it. Below 0 it is on time also where the
            server takes all processors; it works no more for that.
    """

    url: str
    out: str
    users: str
    hot: str
    user_ids: str
    seconds: float
    mode: Literal["open", "closed", "offline"] = "open"
    rate: float = 0.0
    arrivals: str = ""
    warm_up_s: float = 0.0
    concurrency: int = 1
    max_in_flight: int = 512
    connections: int = 64
    spacing_ms: float = 2.0
    timeout_s: float = 10.0
    retries: int = 2
    path: str = "/recommend"
    body: str = ""
    k: int = 10
    degrade: bool = False
    seed: int = 0
    keep_every: int = 0
    pids: list[int] = []
    bound_ms: float = 100.0
    percentile: float = 99.0
    fail_fast: bool = False
    minimum: int = 1000
    allow_remote: bool = False
    nice: int = -10

    @property
    def template(self) -> str:
        """The body, with {user} in it."""
        fallback = ', "degrade": true' if self.degrade else ""
        return (
            self.body or f'{{"user_id": {USER}, "k": {self.k}, "include_titles": false{fallback}}}'
        )

    def due(self) -> np.ndarray:
        """Arrivals of an open run, nanoseconds from the start, int64."""
        if self.arrivals:
            return np.load(self.arrivals)
        return poisson(self.rate, self.warm_up_s + self.seconds, self.seed)


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """What the generating process leaves beside its rows.

    Args:
        begin_ns, end_ns: the measured part; one that is offline, or stopped early, ends with the
        last answer.
        cpu_s: user and system time of the generator from the begin until all was answered.
        interrupted: it was told to stop early.
        failures: broken attempts by their error's name, with those that were tried again.
        nice: the generator's priority.
    """

    begin_ns: int
    end_ns: int
    cpu_s: float
    interrupted: bool
    failures: dict[str, int]
    nice: int


class Progress(msgspec.Struct, frozen=True):
    """How far a run is."""

    elapsed_s: float
    sent: int
    answered: int
    failed: int
    in_flight: int
