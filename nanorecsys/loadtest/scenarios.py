"""Scenarios after MLPerf's load generator: single stream, server, offline; and a closed loop, warm caches.

load = Load(server.url, workload, user_ids, folder, pids=[server.pid])
warm_cache(load)
found = server(load, bound_ms=100)     # the largest Poisson rate whose P99 keeps the bound
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from nanorecsys.loadtest.errors import PlanError
from nanorecsys.loadtest.generator import Interrupted, Run, check_target, run_plan
from nanorecsys.loadtest.plan import Plan, Progress
from nanorecsys.loadtest.summary import INVALID, VALID, VOID, Lag, Summary
from nanorecsys.loadtest.workload import Workload

_WARM = 0.99  # share of the hot set that hits, at which caches count as warm
_CLOSED_RATE = 30_000  # requests a second for which a closed loop has users, at most


class Load:
    """A server, those who ask it, and a folder for what comes out; runs follow each other with fresh cold users."""

    def __init__(
        self,
        url: str,
        workload: Workload,
        user_ids: np.ndarray,
        out: Path,
        *,
        progress: Callable[[str, Progress], None] | None = None,
        **fixed: object,
    ) -> None:
        """What all runs have in common.

        Args:
            url: of the server.
            workload: who asks.
            user_ids: the id of each user number, int64 or text (n_users,).
            out: folder; each run has its own in it, 00-name, 01-name ..
            progress: called with a run's name and how far it is.
            fixed: fields of `Plan` for all runs: pids, connections, timeout_s, bound_ms, minimum,
                seed ..

        Raises:
            PlanError: fewer ids than users.
            RemoteHostError, UnreachableError: see `check_target`.
        """
        if len(user_ids) < workload.n_users:
            raise PlanError(
                f"{workload.n_users:,} users, and {len(user_ids):,} ids", "Give an id for each."
            )
        check_target(url, bool(fixed.get("allow_remote")))
        self.url, self.workload, self.out, self.progress = url, workload, out, progress
        self.fixed = fixed
        self.runs: list[Run] = []
        self.cold_used = 0
        self._number = 0
        out.mkdir(parents=True, exist_ok=True)
        np.save(out / "user_ids.npy", user_ids)

    def run(
        self,
        name: str,
        users: np.ndarray | None = None,
        requests: int | None = None,
        **fields: object,
    ) -> Run:
        """One run.

        Args:
            name: for its folder and the progress.
            users: who asks, int32; drawn from the workload by default.
            requests: how many to draw where the run is not open: by default as many as a closed
                loop can need.
            fields: of `Plan`, for this run.

        Raises:
            NanorecsysError: see `run_plan` and `Workload.draw`.
        """
        folder = self.out / f"{self._number:02d}-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        fields = {
            "url": self.url,
            "out": str(folder),
            "users": str(folder / "users.npy"),
            "hot": str(folder / "hot.npy"),
            "user_ids": str(self.out / "user_ids.npy"),
            **self.fixed,
            **fields,
        }
        plan = Plan(**fields | {"seed": fields.get("seed", 0) + self._number})
        self._number += 1
        if users is None:
            users, hot = self.workload.draw(requests or self._needed(plan), self.cold_used)
        else:
            hot = np.isin(users, self.workload.hot)
        np.save(plan.users, users)
        np.save(plan.hot, hot)
        tell = (lambda p: self.progress(name, p)) if self.progress else None
        run = run_plan(plan, tell)
        self.cold_used += int((~run.frame()["hot"]).sum())
        self.runs.append(run)
        return run

    def _needed(self, plan: Plan) -> int:
        if plan.mode == "open":
            return len(plan.due())
        most = int(_CLOSED_RATE * (plan.warm_up_s + plan.seconds))
        fresh = (
            self.workload.n_cold / self.workload.cold_share if self.workload.cold_share else most
        )
        return max(1, min(most, int(0.9 * fresh)))


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One rate that a search tried.

    Args:
        step: bracket, bisect or confirm.
        rate: offered, requests a second.
        verdict: VALID, INVALID or VOID.
        reasons: why.
        folder: of its rows, relative to the load's folder.
        summary, lag: of its measured part.
        server_cpu_ms, generator_cpu_ms: CPU milliseconds an answer; None where not measured.
    """

    step: str
    rate: float
    verdict: str
    reasons: list[str]
    folder: str
    summary: Summary
    lag: Lag
    server_cpu_ms: float | None
    generator_cpu_ms: float | None


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a search.

    Args:
        rate: the largest that was confirmed; 0 where none was.
        bound_ms: on latency at the percentile asked for.
        confirmed: number of the try in `tries` that confirmed it, None where none did.
        tries: in order.
        limit: what the first rate above failed by, or that none above was tried.
    """

    rate: float
    bound_ms: float
    confirmed: int | None
    tries: list[Try]
    limit: str

    @property
    def verdict(self) -> str:
        """VALID where a rate was confirmed."""
        return INVALID if self.confirmed is None else VALID


def warm_cache(
    load: Load, users: np.ndarray | None = None, passes: int = 16, concurrency: int = 16
) -> float:
    """Ask for users until their answers come from the cache, whichever worker is asked.

    Each worker may have a cache of its own, and none can be chosen: so all are asked for again in
    another order, until 99 % hit. Given up after two passes where nothing hits.

    Args:
        load: whose hot set it is.
        users: int32, the hot set by default.
        passes: at most, two in a run.
        concurrency: requests at work.

    Returns:
        Share of hits in the last pass.
    """
    rng = np.random.default_rng(load.workload.seed)
    users = load.workload.hot if users is None else users
    share = 0.0
    for _ in range(0, passes, 2):
        twice = np.concatenate([rng.permutation(users), rng.permutation(users)])
        run = load.run(
            "warm", twice, mode="offline", seconds=1, warm_up_s=0, concurrency=concurrency
        )
        share = float((run.frame()["source"] == "cache").tail(len(users)).mean())
        if share >= _WARM or not share:
            break
    return share


def single_stream(load: Load, seconds: float, warm_up_s: float = 0.0, **fields: object) -> Run:
    """One client that asks again when it is answered: latency without any queueing."""
    return load.run(
        "single", mode="closed", concurrency=1, seconds=seconds, warm_up_s=warm_up_s, **fields
    )


def closed_loop(
    load: Load, concurrency: int, seconds: float, warm_up_s: float = 0.0, **fields: object
) -> Run:
    """Clients that each wait for an answer before they ask again: what this hides is the point of an open loop."""
    name = f"closed-{concurrency}"
    return load.run(
        name, mode="closed", concurrency=concurrency, seconds=seconds, warm_up_s=warm_up_s, **fields
    )


def offline(load: Load, requests: int, concurrency: int = 64, **fields: object) -> Run:
    """All requests are due at once: the throughput of the server, whatever the latency."""
    return load.run(
        "offline",
        requests=requests,
        mode="offline",
        concurrency=concurrency,
        seconds=1,
        warm_up_s=0,
        **fields,
    )


def open_loop(
    load: Load, rate: float, seconds: float, warm_up_s: float = 0.0, **fields: object
) -> Run:
    """A Poisson stream of requests that does not wait for the server."""
    return load.run(
        f"open-{rate:g}", mode="open", rate=rate, seconds=seconds, warm_up_s=warm_up_s, **fields
    )


def server(
    load: Load,
    bound_ms: float = 100.0,
    *,
    start_rate: float = 100.0,
    seconds: float = 10.0,
    warm_up_s: float = 2.0,
    precision: float = 0.05,
    confirm_s: float = 60.0,
    step_down: float = 0.03,
    confirmations: int = 6,
    lowest: float = 1.0,
    **fields: object,
) -> Search:
    """Search the largest Poisson rate at which the 99th percentile keeps a bound, with no error.

    From `start_rate` rates double while they are valid, or halve until one is. Then the interval
    between a valid and a failed one is halved (geometrically) down to the precision. At last a long
    run confirms the rate, or, where it fails, one a few per cent lower. A try that is VOID, as the
    generator was late, is made again once; VOID twice counts as failed, and `limit` says so. A try
    ends with its first error. Each has cold users of its own.

    Args:
        load: what is loaded; its caches should be warm.
        bound_ms: on latency from the intended time.
        start_rate: of the first try.
        seconds: of a try, after `warm_up_s`.
        precision: relative, of the bisection.
        confirm_s: of the run that confirms.
        step_down: share of the rate that is given up where it fails.
        confirmations: at most.
        lowest: rate below which there is none.
        fields: of `Plan`. Its `minimum` holds for the run that confirms; a try needs no more than
            it can have.

    Raises:
        PlanError: a rate, time or precision out of bounds.
        Interrupted: on Ctrl-C, with the tries so far in `search`.
    """
    if not (
        start_rate >= lowest > 0
        and precision > 0
        and 0 < step_down < 1
        and seconds > 0
        and confirm_s > 0
    ):
        raise PlanError(
            f"expected rates from {lowest:g} on, times and precision above 0, got start_rate {start_rate}, seconds "
            f"{seconds}, confirm_s {confirm_s}, precision {precision}",
            "Mend the arguments of the search.",
        )
    asked = fields.pop("minimum", load.fixed.get("minimum", 1000))
    tries: list[Try] = []

    def attempt(step: str, rate: float, duration: float = seconds) -> bool:
        minimum = asked if step == "confirm" else min(asked, int(rate * duration / 2))
        given = {**fields, "bound_ms": bound_ms, "minimum": minimum, "fail_fast": True}
        for _ in range(2):
            run = open_loop(load, rate, duration, warm_up_s, **given)
            tries.append(_try(step, rate, run, load.out))
            if run.verdict.kind != VOID:
                break
        return run.verdict.valid

    try:
        rate, confirmed = _find(attempt, start_rate, lowest, precision), None
        for _ in range(confirmations if rate else 0):
            if attempt("confirm", rate, confirm_s):
                confirmed = len(tries) - 1
                break
            rate *= 1 - step_down
    except Interrupted as stopped:
        stopped.search = _result(0.0, bound_ms, None, tries)
        raise
    return _result(rate, bound_ms, confirmed, tries)


def _find(
    attempt: Callable[[str, float], bool], rate: float, lowest: float, precision: float
) -> float:
    """The largest valid rate, to a relative precision; 0 where there is none from `lowest` on."""
    low, high = 0.0, None
    while (high is None or low == 0) and rate >= lowest:
        if attempt("bracket", rate):
            low, rate = rate, rate * 2
        else:
            high, rate = rate, rate / 2
    while low and high / low > 1 + precision:
        rate = (low * high) ** 0.5
        if attempt("bisect", rate):
            low = rate
        else:
            high = rate
    return low


def _try(step: str, rate: float, run: Run, out: Path) -> Try:
    return Try(
        step=step,
        rate=rate,
        verdict=run.verdict.kind,
        reasons=run.verdict.reasons,
        folder=str(run.rows.parent.relative_to(out)),
        summary=run.summary,
        lag=run.lag,
        server_cpu_ms=run.server_cpu_ms_per_request,
        generator_cpu_ms=run.cpu_ms_per_request,
    )


def _result(rate: float, bound_ms: float, confirmed: int | None, tries: Sequence[Try]) -> Search:
    rate = 0.0 if confirmed is None else rate
    above = min(
        (t for t in tries if t.rate > rate and t.verdict != VALID),
        key=lambda t: t.rate,
        default=None,
    )
    limit = (
        "no rate above was tried"
        if above is None
        else f"at {above.rate:.0f}/s: {'; '.join(above.reasons)}"
    )
    return Search(rate=rate, bound_ms=bound_ms, confirmed=confirmed, tries=list(tries), limit=limit)
