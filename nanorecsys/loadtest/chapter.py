"""Chapter 06: how many requests a second, at what tail, and where the time goes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanorecsys.loadtest.result import LoadtestResult
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.claims import Claim, Target, keeps_time
from nanorecsys.study.layout import layout

NEEDS = ("01_data", "02_training", "03_export", "04_ann")
Result = LoadtestResult
Value = Callable[[LoadtestResult], float | None]


def _study_shape(value: Value) -> Value:
    """A figure that is claimed of the study shape alone."""
    return lambda r: value(r) if r.is_study_shape else None


def _full(value: Value) -> Value:
    """A figure that is claimed of the study shape and of loads of their full length alone."""
    return lambda r: value(r) if r.is_study_shape and r.is_full else None


def _rate(r: LoadtestResult) -> float | None:
    """The confirmed rate; 0 where the server kept none, None where the generator kept its schedule at none."""
    if r.highest:
        return r.highest.offered_per_s
    verdicts = {row.verdict for row in r.loads if row.scenario == "confirming"}
    return None if verdicts == {"VOID"} else 0.0


def _times_busy(r: LoadtestResult) -> float | None:
    """What the final server answers when it is kept busy, over what the baseline does."""
    baseline = r.busy.baseline_per_s.middle if r.busy else 0.0
    return r.busy.optimized_per_s.middle / baseline if baseline else None


def _times_cpu(which: str) -> Value:
    """How many times the optimized server's CPU time a request the baseline takes, in one of the comparisons."""
    return _study_shape(
        lambda r: compared.times.middle if (compared := getattr(r, which)) else None
    )


def _cpu(name: str, which: str, statement: str, target: Target) -> Claim:
    return Claim(
        id=f"loadtest.{name}", statement=statement, value=_times_cpu(which), unit="x", target=target
    )


SIX, TEN = Target(">=", 6.0, limit=4.0), Target(">=", 10.0, limit=6.0)
CLAIMS = (
    _cpu(
        "cpu_mixed",
        "busy",
        "Kept busy, 30 % cold, the baseline takes six times the optimized server's CPU time a request.",
        SIX,
    ),
    _cpu("cpu_mixed_aim", "busy", "The aim: ten times.", TEN),
    _cpu("cpu_cold", "busy_cold", "And six times where every request is computed.", SIX),
    _cpu("cpu_cold_aim", "busy_cold", "The aim there: ten times.", TEN),
    _cpu(
        "cpu_light",
        "mixed",
        "At a light load, where a server rests between requests and is cold for each, six times as well.",
        SIX,
    ),
    _cpu("cpu_light_cold", "cold", "And where every request of a light load is computed.", SIX),
    Claim(
        id="loadtest.rate",
        statement="500 requests/s at a P99 of at most 100 ms, no error, for 60 s, generator on the same two cores.",
        value=_full(_rate),
        unit="requests/s",
        target=Target(">=", 500.0, limit=250.0),
        original="~80 at P99 580 ms",
    ),
    Claim(
        id="loadtest.rate_aim",
        statement="The aim: 1,000 requests/s.",
        value=_full(_rate),
        unit="requests/s",
        target=Target(">=", 1000.0, limit=500.0),
        original="~80 at P99 580 ms",
    ),
    Claim(
        id="loadtest.goodput",
        statement="At twice the highest rate goodput is at least 90 % of that at the highest.",
        value=_study_shape(lambda r: r.overload.goodput_share if r.overload else None),
        unit="",
        target=Target(">=", 0.9, limit=0.75),
        agrees="ratio",
    ),
    Claim(
        id="loadtest.overload_p99",
        statement="There the P99 of the answered stays within twice the bound, in the median of the rounds.",
        value=_study_shape(
            lambda r: (
                r.overload.p99_ms / r.p99_bound_ms
                if r.overload and r.overload.verdict != "VOID"
                else None
            )
        ),
        unit="of the bound",
        target=Target("<=", 2.0, limit=3.0),
    ),
    Claim(
        id="loadtest.deliberate",
        statement="And no request ends in a server error other than a deliberate 503.",
        value=lambda r: float(r.overload.not_deliberate) if r.overload else None,
        unit="requests",
        target=Target("==", 0.0),
    ),
    Claim(
        id="loadtest.recovery",
        statement="After the rate falls back the bound is kept again within 5 s.",
        value=_study_shape(lambda r: r.overload.recovery_s if r.overload else None),
        unit="s",
        target=Target("<=", 5.0, limit=7.0),  # of the 8 s that are measured
    ),
    Claim(
        id="loadtest.wrong",
        statement="With workers killed, bundles taken up, Redis stopped and clients cut off no answer is wrong.",
        value=lambda r: float(r.faults.wrong),
        unit="answers",
        target=Target("==", 0.0),
    ),
    Claim(
        id="loadtest.lost",
        statement="Nor is an accepted request or an acknowledged event lost.",
        value=lambda r: float(r.faults.lost + r.faults.events_missing + r.faults.server_errors),
        unit="lost",
        target=Target("==", 0.0),
    ),
    Claim(
        id="loadtest.fault_requests",
        statement="That holds over 200,000 requests with a real Redis.",
        value=lambda r: (
            float(r.faults.requests) if r.is_full and r.faults.cache == "redis" else None
        ),
        unit="requests",
        target=Target(">=", 200_000.0),
    ),
    Claim(
        id="loadtest.memory",
        statement="From the first round of faults to the last, memory grows by no more than 10 %.",
        value=lambda r: r.faults.rss_growth if r.is_full else None,
        unit="",
        target=Target("<=", 0.1, limit=0.25),
        agrees="machine",
    ),
    Claim(
        id="loadtest.prediction",
        statement="A simulation from service times alone predicts P99 within 25 % below 80 % of the highest rate.",
        value=_full(lambda r: r.prediction_error),
        unit="",
        target=Target("<=", 0.25, limit=0.5),
        agrees="ratio",
    ),
    Claim(
        id="loadtest.original_throughput",
        statement="Kept busy by the same clients, it answers 3.3 times as many requests a second, on the same cores.",
        value=_study_shape(_times_busy),
        unit="x",
        target=Target(">=", 3.3),
        original="3.3x (24 to ~80 requests/s, on other hardware)",
    ),
    Claim(
        id="loadtest.original_embedding",
        statement="It encodes a user twice as fast, in the median.",
        value=_study_shape(
            lambda r: r.baseline_stages["embedding"].p50 / r.stages_alone["embedding"].p50
        ),
        unit="x",
        target=Target(">=", 2.0),
        original="2x (75 ms to 36 ms)",
    ),
    Claim(
        id="loadtest.original_efficiency",
        statement="A core carries 25 times as many requests.",
        value=_times_cpu("busy"),
        unit="x",
        target=Target(">=", 25.0),
        original="~25x (16 cores against 2, nominal)",
    ),
    Claim(
        id="loadtest.original_tail",
        statement="The tail at the highest rate is queueing: the slowest percent mostly waits, in queue or for a core.",
        value=_study_shape(lambda r: r.bands[-1].waiting_share if r.highest and r.bands else None),
        unit="",
        target=Target(">=", 0.5),
        original="P99 spikes by queueing",
        agrees="ratio",
    ),
    keeps_time("loadtest", "14 minutes in full, 3 in quick, 60 s in smoke"),
)


def estimate(parameters: dict[str, Any]) -> Estimate:
    """Two servers with PyTorch in one of them, and a bundle of all users for each rung and each that is taken up."""
    bundle_gib = 0.13 + parameters["n_users"] * 1e3 / 2**30
    return Estimate(memory_gib=4.0, disk_gib=(7 + parameters["fault_rounds"]) * bundle_gib + 0.3)


def inputs(parameters: dict[str, Any]) -> list[Path]:
    """The server and the sending process: they run apart, so no import of the notebook leads to them."""
    root = layout().root
    return [*sorted((root / "server").glob("*.py")), root / "nanorecsys" / "loadtest" / "worker.py"]


def headline(result: LoadtestResult) -> list[tuple[str, str]]:
    """What the landing page says of this chapter."""
    rows = []
    if result.highest:
        rows.append(
            (
                f"Highest rate at a P99 of {result.p99_bound_ms:g} ms, {result.cold_share:.0%} cold",
                f"{result.highest.offered_per_s:,.0f} requests/s",
            )
        )
    if result.busy:
        rows.append(
            ("CPU time of a request, kept busy", f"{result.busy.optimized_cpu_ms.middle:.2f} ms")
        )
        rows.append(
            ("That of PyTorch with the same cache, over it", f"{result.busy.times.middle:.1f}x")
        )
    return rows
