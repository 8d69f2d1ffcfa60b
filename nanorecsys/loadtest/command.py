"""`nanorecsys load URL`: load a server, and say what it bears."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanorecsys.loadtest.errors import PlanError, PopulationError

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from nanorecsys.loadtest.generator import Run
    from nanorecsys.loadtest.scenarios import Search

SINGLE, OFFLINE, SEARCH, OPEN, CLOSED = "single", "offline", "search", "open", "closed"
ABOVE_0, FROM_1 = click.FloatRange(min=0, min_open=True), click.IntRange(min=1)
BODY = '{"user_id": {user}, "k": 10}'


@click.command()
@click.argument("url")
@click.option(
    "--mode",
    type=click.Choice([OPEN, CLOSED, SINGLE, OFFLINE, SEARCH]),
    default=OPEN,
    show_default=True,
)
@click.option(
    "--rate",
    type=ABOVE_0,
    default=100.0,
    show_default=True,
    help="Requests a second: open; of search, the first try.",
)
@click.option(
    "--seconds",
    type=ABOVE_0,
    default=30.0,
    show_default=True,
    help="Measured time; of search, of each try.",
)
@click.option(
    "--warm-up",
    "warm_up_s",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Seconds before it, discarded.",
)
@click.option(
    "--confirm",
    "confirm_s",
    type=ABOVE_0,
    default=60.0,
    show_default=True,
    help="Seconds of the run that ends a search.",
)
@click.option(
    "--precision",
    type=ABOVE_0,
    default=0.05,
    show_default=True,
    help="Of the rate searched, relative.",
)
@click.option(
    "--concurrency",
    type=FROM_1,
    default=16,
    show_default=True,
    help="Clients of closed and offline.",
)
@click.option(
    "--requests", type=FROM_1, default=2000, show_default=True, help="Requests of offline."
)
@click.option(
    "--bound-ms",
    type=ABOVE_0,
    default=100.0,
    show_default=True,
    help="Latency that P99 must keep, from intended times.",
)
@click.option("--path", default="/recommend", show_default=True, help="What is posted to.")
@click.option(
    "--body", default=BODY, show_default=True, help="JSON to post; {user} becomes a user's id."
)
@click.option(
    "--users",
    "users_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="User ids, one a line.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Serving bundle, whose users ask.",
)
@click.option(
    "--cold-share",
    type=click.FloatRange(0, 1),
    default=0.3,
    show_default=True,
    help="Of requests, by users who come only once.",
)
@click.option("--hot-users", default=1000, show_default=True, help="Users who make up the others.")
@click.option(
    "--zipf", type=float, help="Let all users ask by a Zipf law with this exponent instead."
)
@click.option(
    "--warm-cache/--no-warm-cache",
    default=True,
    show_default=True,
    help="Ask for the hot users beforehand.",
)
@click.option(
    "--connections",
    type=FROM_1,
    default=64,
    show_default=True,
    help="Opened before the start, spaced out.",
)
@click.option(
    "--max-in-flight",
    type=FROM_1,
    default=512,
    show_default=True,
    help="Requests due beyond it are skipped.",
)
@click.option(
    "--timeout", "timeout_s", type=ABOVE_0, default=10.0, show_default=True, help="Seconds."
)
@click.option(
    "--retries",
    type=click.IntRange(0, 100),
    default=2,
    show_default=True,
    help="After a broken connection, on a fresh one.",
)
@click.option(
    "--pid",
    "pids",
    type=int,
    multiple=True,
    help="Of the server: measure its CPU and memory. Repeatable.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="data/runs/load/TIME by default."
)
@click.option("--seed", default=0, show_default=True, help="Of arrivals and users.")
@click.option(
    "--allow-remote", is_flag=True, help="Load a host that is not this machine. It must be yours."
)
def load(
    url: str,
    mode: str,
    rate: float,
    seconds: float,
    warm_up_s: float,
    confirm_s: float,
    precision: float,
    concurrency: int,
    requests: int,
    bound_ms: float,
    users_file: Path | None,
    bundle: Path | None,
    cold_share: float,
    hot_users: int,
    zipf: float | None,
    warm_cache: bool,
    pids: tuple[int, ...],
    out: Path | None,
    seed: int,
    **fixed: object,
) -> None:
    """Send requests to the server at URL, and say what it bears.

    \b
    open     requests arrive at --rate, at random times, whether the server keeps up or not. Latency
    counts from
             the time a request was meant to be sent, so a server that stalls pays for all that it
             kept waiting.
    closed   --concurrency clients wait for each answer. A slow server slows its own load: this
    flatters it. single   one such client: latency without a queue.
    offline  --requests are due at once: throughput.
    search   the largest rate of open at which P99 keeps --bound-ms without an error, confirmed by a
    long run.

    A run is VALID, INVALID (the server was too slow or failed), or VOID: the generator itself was
    late, as on a machine that is too busy, and the run says nothing. Users come from --bundle or
    --users; a cold user is asked for only once, so no cache has the answer. Rows of every request,
    and the summary, go to --out. Ctrl-C ends a run early and keeps what there is.

    \b
    Examples:
      nanorecsys load http://127.0.0.1:8000 --bundle data/runs/quick/bundle --rate 200 --hot-users
      100 nanorecsys load http://127.0.0.1:8000 --bundle DIR --mode search --bound-ms 50 --pid 4711
      nanorecsys load http://127.0.0.1:9000 --users ids.txt --path /api/top --body '{"id": {user},
      "n": 20}'
    """
    import msgspec
    from rich.console import Console

    from nanorecsys.loadtest import scenarios
    from nanorecsys.loadtest.generator import Interrupted
    from nanorecsys.loadtest.plan import USER
    from nanorecsys.loadtest.workload import Workload

    if USER in fixed["body"]:
        ids = read_ids(users_file, bundle)
    elif users_file or bundle:
        raise PlanError(
            f"users are given, and the body has no {USER}", f"Write {USER} where a user's id goes."
        )
    else:
        import numpy as np

        ids, hot_users, cold_share = np.arange(1), 1, 0.0
    workload = Workload(len(ids), hot_users, cold_share, seed, zipf)
    out = out or _default_out()
    console = Console(highlight=False)
    with _Bar() as bar:
        loaded = scenarios.Load(
            url,
            workload,
            ids,
            out,
            progress=bar,
            seed=seed,
            pids=list(pids),
            bound_ms=bound_ms,
            **fixed,
        )
        search, interrupted = None, False
        try:
            if warm_cache and hot_users and cold_share < 1:
                share = scenarios.warm_cache(loaded)
                bar.say(
                    f"caches: {share:.0%} of the hot users hit after {2 * len(loaded.runs)} passes"
                )
            bar.total = seconds + warm_up_s
            if mode == SEARCH:
                search = scenarios.server(
                    loaded,
                    bound_ms,
                    start_rate=rate,
                    seconds=seconds,
                    warm_up_s=warm_up_s,
                    precision=precision,
                    confirm_s=confirm_s,
                )
            elif mode == OPEN:
                scenarios.open_loop(loaded, rate, seconds, warm_up_s)
            elif mode == CLOSED:
                scenarios.closed_loop(loaded, concurrency, seconds, warm_up_s)
            elif mode == SINGLE:
                scenarios.single_stream(loaded, seconds, warm_up_s)
            else:
                scenarios.offline(loaded, requests, concurrency)
        except Interrupted as stopped:
            search, interrupted = stopped.search, True
            loaded.runs.append(stopped.run)
    if search:
        console.print(search_table(search))
        (out / "search.json").write_bytes(msgspec.json.format(msgspec.json.encode(search)))
    run = loaded.runs[-1]
    console.print(run_table(run))
    (out / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(told(run))))
    console.print(f"rows: {run.rows}", markup=False, soft_wrap=True)
    if interrupted:
        console.print("interrupted: the table has what there was until then")
        sys.exit(130)


def read_ids(users: Path | None, bundle: Path | None) -> "np.ndarray":
    """User ids of a text file, one a line (whole numbers where all are), or of a bundle.

    Raises:
        PopulationError: none or both are given, or there is no user in it.
    """
    import numpy as np

    remedy = "Give --users FILE with one id a line, or --bundle DIR."
    if (users is None) == (bundle is None):
        raise PopulationError("expected either a file of users or a bundle", remedy)
    path = users or bundle / "user_ids.npy"
    try:
        if bundle:
            ids = np.load(path)
        else:
            lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
            ids = np.array(
                [int(line) for line in lines] if all(_whole(line) for line in lines) else lines
            )
    except (OSError, ValueError) as error:
        raise PopulationError(f"{path}: cannot read user ids: {error}", remedy) from None
    if not len(ids):
        raise PopulationError(f"{path}: no user in it", remedy)
    return ids


def told(run: "Run") -> dict[str, object]:
    """All that a run says, for a file."""
    return {
        "verdict": run.verdict,
        "summary": run.summary,
        "lag": run.lag,
        "generator_cpu_ms_per_request": run.cpu_ms_per_request,
        "server_cpu_ms_per_request": run.server_cpu_ms_per_request,
        "server_rss_mib": run.server_rss_mib,
        "generator": run.finished,
        "plan": run.plan,
    }


def run_table(run: "Run") -> "Table":
    """A run as a table for a terminal."""
    from rich.table import Table

    plan, s = run.plan, run.summary
    arrival = (
        f"open loop, {plan.rate:g} requests/s"
        if plan.mode == OPEN
        else f"{plan.mode}, {plan.concurrency} clients"
    )
    table = Table(
        title=f"{plan.url}{plan.path}: {arrival}, {s.seconds:.1f} s",
        show_header=False,
        title_justify="left",
    )
    rows = {
        "offered": f"{s.offered:,} ({s.offered_per_s:,.1f}/s)",
        "answered": f"{s.answered_per_s:,.1f}/s",
        "goodput": f"{s.goodput_per_s:,.1f}/s",
        "errors": f"{s.errors:,}{_reasons(run)}",
        "skipped": f"{s.skipped:,}",
        "retries": f"{s.retries:,}",
        "fallbacks": f"{s.fallbacks:,}",
        "cache hits": f"{_percent(s.hit_share)} (of cold users {_percent(s.cold_hit_share)})",
        "latency, from the intended time": _latency(s.latency),
        "latency, from the time sent": _latency(s.sent_latency),
        "of cache hits": _latency(s.hit_latency),
        "of others": _latency(s.miss_latency),
        "generator's lag": f"P50 {run.lag.p50_ms:.2f}  P99 {run.lag.p99_ms:.2f}  max {run.lag.max_ms:.1f} ms",
        "generator's CPU": _cpu(run.cpu_ms_per_request),
    }
    if run.server_rss_mib is not None:
        before, after = run.server_rss_mib
        rows["server's CPU"] = _cpu(run.server_cpu_ms_per_request)
        rows["server's memory"] = f"{before:,.0f} MiB before, {after:,.0f} MiB after"
    if set(s.workers) - {-1}:
        rows["answers by worker"] = ", ".join(f"{pid}: {n:,}" for pid, n in s.workers.items())
    rows["verdict"] = " - ".join([run.verdict.kind, *run.verdict.reasons])
    for name, value in rows.items():
        if not value.startswith("none"):
            table.add_row(name, value)
    return table


def search_table(search: "Search") -> "Table":
    """A search as a table for a terminal."""
    from rich.table import Table

    rate = f"{search.rate:,.0f} requests/s" if search.confirmed is not None else "no rate confirmed"
    title = f"{search.verdict}: {rate} at P99 <= {search.bound_ms:g} ms; {search.limit}"
    table = Table(
        "step", "rate/s", "goodput/s", "P50", "P99 ms", "lag P99", "CPU ms", "verdict", title=title
    )
    for t in search.tries:
        cpu = "-" if t.server_cpu_ms is None else f"{t.server_cpu_ms:.3f}"
        verdict = "; ".join([t.verdict, *t.reasons])
        s = t.summary
        table.add_row(
            *(
                t.step,
                f"{t.rate:,.0f}",
                f"{s.goodput_per_s:,.0f}",
                _ms(s.latency.p50_ms),
                _ms(s.latency.p99_ms),
            ),
            *(f"{t.lag.p99_ms:.2f}", cpu, verdict),
        )
    return table


class _Bar:
    """Progress of runs on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self.total = 0.0  # seconds of a run, 0 where not known
        self._name = ""

    def __enter__(self) -> "_Bar":
        from tqdm import tqdm

        form = "{desc} {elapsed}{postfix}"
        self._bar = tqdm(bar_format=form, disable=None, leave=False)
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def __call__(self, name: str, progress) -> None:
        of = f" of {self.total:g}" if self.total and not name.startswith(OFFLINE) else ""
        self._bar.set_description_str(f"{name}: {progress.elapsed_s:.0f}{of} s", refresh=False)
        self._bar.set_postfix_str(
            f"{progress.sent:,} sent, {progress.answered:,} answered, {progress.failed:,} failed, "
            f"{progress.in_flight:,} in flight"
        )

    def say(self, text: str) -> None:
        """A line that stays."""
        self._bar.clear()
        click.echo(text)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _latency(latency) -> str:
    if not latency.n:
        return "none"
    named = {
        "P50": latency.p50_ms,
        "P90": latency.p90_ms,
        "P95": latency.p95_ms,
        "P99": latency.p99_ms,
    }
    named |= {"P99.9": latency.p999_ms, "max": latency.max_ms}
    return "  ".join(f"{name} {value:.2f}" for name, value in named.items()) + " ms"


def _cpu(milliseconds: float | None) -> str:
    return "none" if milliseconds is None else f"{milliseconds:.3f} ms a request"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _reasons(run: "Run") -> str:
    """What failed: statuses, and broken attempts by their error's name."""
    statuses = [
        f"{status}: {n:,}" for status, n in run.summary.statuses.items() if status not in (200, -1)
    ]
    broken = [f"{name}: {n:,}" for name, n in run.finished.failures.items()]
    return f" ({', '.join(statuses + broken)})" if statuses + broken else ""


def _whole(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()


def _default_out() -> Path:
    from nanorecsys.study.layout import layout

    return layout().runs / "load" / datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
