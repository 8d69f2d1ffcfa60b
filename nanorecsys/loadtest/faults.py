"""Many requests while workers are killed, bundles taken up, Redis stopped, clients cut off: is anything wrong or lost?

A sample of the answers is compared with a direct computation by the bundle that the answer names.
In int8 the last bit of a sum can become a step, and with scales that are found over a batch a
history's scores move with the company that it comes in, by as much as an event that is left out
moves them. The bundles here have the tower in fp32, so that what is judged is the server: an answer
is right if its items are unseen and different, each has the score that it has directly, and none
lies below the last place of the direct answer, less one item, which an approximate index may lose
to rounding.
"""

import dataclasses
import http.client
import os
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import psutil
import redis

from nanorecsys.data import Histories
from nanorecsys.loadtest import bundles as b
from nanorecsys.loadtest import ladder, scenarios
from nanorecsys.loadtest.errors import LoadTestError
from nanorecsys.loadtest.generator import Run
from nanorecsys.loadtest.measure import Bench, Target
from nanorecsys.loadtest.plan import Progress
from nanorecsys.loadtest.process import ServerProcess, free_port
from nanorecsys.loadtest.result import Faults
from nanorecsys.serving.bundle import Bundle, Parts, build_bundle, open_bundle
from nanorecsys.serving.padding import padded
from nanorecsys.system.blas import faiss

K = 10
CANDIDATES = 100
TOLERANCE = 1e-3  # of a score, which is a logit: what the order of fp32 sums changes, with room
LOST = 1  # items of a direct answer that an approximate index may lose for a vector that differs by rounding
RETRIES = 6
CONCURRENCY = 16
CUT_EVERY_S, AUDIT_EVERY_S, RSS_EVERY_S = 0.1, 0.1, 1.0
REDIS_AWAY_S = 1.0
FIRST, LAST = 0.05, 0.85  # shares of the run between which faults happen
NICE = 10  # of the threads that make them, a rebuild among them


class RedisProcess:
    """A redis-server that keeps nothing on the disk, on a free port of this machine; None of it where there is none.

    with RedisProcess() as server:
        server.url, server.kill(), server.start()
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen | None = None

    @staticmethod
    def available() -> bool:
        """Whether this machine has a redis-server."""
        return shutil.which("redis-server") is not None

    @property
    def url(self) -> str:
        """As the server's --cache takes it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            LoadTestError: it does not.
        """
        settings = (
            "--bind",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--save",
            "",
            "--appendonly",
            "no",
        )
        self.process = subprocess.Popen(
            ["redis-server", *settings, "--dir", self.folder],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        client = redis.Redis(port=self.port)
        for _ in range(200):
            with suppress(redis.RedisError):
                if client.ping():
                    client.close()
                    return
            time.sleep(0.02)
        raise LoadTestError(
            "redis-server does not answer", "Start it by hand to see why, or take --cache memory."
        )

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it with a signal."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(10)

    def __enter__(self) -> Self:
        self.folder = tempfile.mkdtemp(prefix="redis-")
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Direct:
    """What a bundle answers, computed in this process without the server's code."""

    def __init__(self, folder: Path) -> None:
        faiss.omp_set_num_threads(1)
        self.bundle: Bundle = open_bundle(folder, verify=False)
        self.id = self.bundle.manifest.id
        self.item_ids = self.bundle.items["item_id"].to_numpy()

    def wrong(
        self, user_id: int | str, items: Sequence[dict[str, Any]], posted: Sequence[int | str] = ()
    ) -> str:
        """What is wrong with an answer, "" if nothing.

        Args:
            user_id: whom it was for.
            items: of the answer: item_id and score.
            posted: ids of the user's events since the bundle was made, oldest first.
        """
        bundle = self.bundle
        numbers = [bundle.item_numbers.get(item["item_id"], -1) for item in items]
        if len(numbers) != K or len(set(numbers)) != K or min(numbers) < 0:
            return f"expected {K} different items, got {len(set(numbers))}"
        history = self.history(user_id, posted)
        if not set(numbers).isdisjoint(history.tolist()):
            return "an item that the user has seen"
        user = self.user(history)
        # an index that compares again finds others where it is asked for more, so as the server
        # asks, or more for want
        for depth in (CANDIDATES + min(len(history), CANDIDATES), 2 * CANDIDATES + len(history)):
            found = bundle.index.search(user, min(depth, bundle.manifest.n_items))[1][0]
            kept = found[(found >= 0) & ~np.isin(found, history)][:CANDIDATES]
            if len(kept) == CANDIDATES:
                break
        direct = self.scores(user, kept)
        own = self.scores(user, np.array(numbers))
        given = np.array([item["score"] for item in items])
        if (np.diff(given) > 0).any():
            return "scores that rise"
        if (off := np.abs(own - given).max()) > TOLERANCE:
            return f"a score that is {off:.2g} off"
        last = np.sort(direct)[-K - LOST]
        if (below := last - own.min()) > TOLERANCE:
            return f"an item {below:.2g} below the last place"
        return ""

    def history(self, user_id: int | str, posted: Sequence[int | str]) -> np.ndarray:
        """Items of the user, oldest first, int64 (n,)."""
        bundle = self.bundle
        user = bundle.user_numbers[user_id]
        start, stop = bundle.histories.offsets[user : user + 2]
        newer = [bundle.item_numbers[item] for item in posted]
        return np.concatenate([bundle.histories.items[start:stop], newer]).astype(np.int64)

    def user(self, history: np.ndarray) -> np.ndarray:
        """The user's vector float32 (1, d)."""
        alone = Histories(np.array([0, len(history)]), history.astype(np.int32))
        return self.bundle.encoder(*padded(alone, np.array([0]), self.bundle.manifest.events_read))

    def scores(self, user: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The ranker's scores of items int64 (n,), float32 (n,)."""
        return self.bundle.ranker.run(None, {"users": user, "items": items[None].astype(np.int64)})[
            0
        ][0]


@dataclass
class _Told:
    """What the threads beside the load have seen."""

    cut: int = 0
    killed: int = 0
    reloads: int = 0
    cache_stops: int = 0
    posted: list[tuple[Any, Any]] = field(default_factory=list)  # acknowledged: user id, item id
    audited: list[tuple[Any, list[Any], dict[str, Any]]] = field(
        default_factory=list
    )  # user, events so far, answer
    rss: list[tuple[float, float]] = field(default_factory=list)  # share of the run, MiB
    rounds: list[tuple[float, float]] = field(
        default_factory=list
    )  # shares of the run at which each began and ended
    errors: list[BaseException] = field(default_factory=list)


def run_faults(
    bench: Bench,
    requests: int,
    rounds: int,
    compare: int,
    rate: float = 0.0,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[Faults, str]:
    """Send the requests, make the faults, and look at what came.

    Args:
        bench: its bundles, users and mix.
        requests: sent, about as many where there is a rate.
        rounds: of faults: a worker killed, another bundle taken up, the cache stopped and started.
        compare: answers that are compared with a direct computation.
        rate: requests a second; 0 for the next as soon as one is answered, `CONCURRENCY` at a time.
        progress: told how far the load is.

    Returns:
        the findings, and what the server printed.
    """
    began = time.monotonic()
    folder = bench.folder("faults")
    live = folder / "bundle"
    parts = [in_fp32(bench.bundles.changed[name]) for name in (b.CHOSEN, bench.bundles.final)]
    kept = []  # a copy of each bundle that was live, to compute with
    build_bundle(live, parts[-1])
    kept.append(_copy(live, folder / "kept-0"))
    redis_server = RedisProcess() if RedisProcess.available() else None
    with _maybe(redis_server):
        cache = redis_server.url if redis_server else "memory"
        rung = two_workers(cache)
        arguments = [
            *rung.arguments(bench.bundles, live),
            "--events",
            str(folder / "events.sqlite"),
        ]
        with ServerProcess(arguments, log=folder / "server.log") as server:
            target = Target(bench, rung, server)
            scenarios.warm_cache(target.load())
            told, share, over = _Told(), [0.0], threading.Event()

            def reload(number: int) -> None:
                build_bundle(live, parts[number % len(parts)])
                kept.append(_copy(live, folder / f"kept-{number + 1}"))
                server.signal(signal.SIGHUP)

            threads = [
                _thread(
                    told,
                    _make_faults,
                    told,
                    server,
                    redis_server,
                    reload,
                    rounds,
                    lambda: share[0],
                    over,
                ),
                _thread(told, _cut_clients, told, server, bench, over),
                _thread(told, _audit, told, server, bench, over),
                _thread(told, _watch_memory, told, server, lambda: share[0], over),
            ]
            load = target.load()

            def tell(p: Progress) -> None:
                share[0] = p.answered / requests
                if progress:
                    progress(p)

            load.progress = lambda _, p: tell(p)
            bench.say(f"faults: {requests:,} requests")
            kept_fields = {
                "retries": RETRIES,
                "keep_every": max(1, requests // compare),
                "connections": CONCURRENCY,
            }
            if rate:
                run = scenarios.open_loop(load, rate, requests / rate, **kept_fields)
            else:
                run = scenarios.offline(load, requests, CONCURRENCY, **kept_fields)
            over.set()
            for thread in threads:
                thread.join(30)
            if told.errors:
                raise told.errors[0]
            target.keep("faults", run, rate or None)
            printed = server.printed()
    seconds = time.monotonic() - began
    faults = _judge(
        run, told, kept, folder / "events.sqlite", bench, redis_server is not None, printed, seconds
    )
    shutil.rmtree(live)
    for copy in kept:
        shutil.rmtree(copy)
    return faults, printed


def in_fp32(parts: Parts) -> Parts:
    """The same parts with the tower whose scores do not depend on the rest of a batch."""
    return dataclasses.replace(
        parts, tower=parts.tower_fp32, tower_variant="fp32", tower_is_int8=False
    )


def two_workers(cache: str) -> ladder.Rung:
    """The final server as two workers, with a cache that both share where it is Redis."""
    return dataclasses.replace(ladder.FINAL, name="two workers", workers=2, cache=cache)


def _judge(
    run: Run,
    told: _Told,
    kept: Sequence[Path],
    events: Path,
    bench: Bench,
    with_redis: bool,
    printed: str,
    seconds: float,
) -> Faults:
    rows = run.frame()
    answered = (rows["status"] == 200).sum()
    direct = {d.id: d for d in map(Direct, kept)}
    compared, wrong = 0, Counter()
    ids = bench.bundles.parts.user_ids
    sample = rows.filter((rows["status"] == 200) & rows["body"].is_not_null()).select(
        "user", "body"
    )
    answers = [
        (ids[user].item(), [], msgspec.json.decode(body)) for user, body in sample.iter_rows()
    ]
    changed = {user_id for user_id, _ in told.posted}
    for user_id, posted, answer in (*(a for a in answers if a[0] not in changed), *told.audited):
        compared += 1
        if answer["bundle"] not in direct:
            wrong["an unknown bundle"] += 1
        elif why := direct[answer["bundle"]].wrong(user_id, answer["items"], posted):
            wrong[why] += 1
    stored = Counter(_stored(events))
    missing = sum(max(count - stored[event], 0) for event, count in Counter(told.posted).items())
    rss_mib = _memory(told)
    return Faults(
        requests=(
            rows["status"] >= 0
        ).sum(),  # without those that the generator's bound on requests in flight kept back
        answered=answered,
        refused=(rows["status"] == 503).sum(),
        retried=(rows["retries"] > 0).sum(),
        lost=(rows["status"] == 0).sum(),
        server_errors=((rows["status"] >= 500) & (rows["status"] != 503)).sum(),
        compared=compared,
        wrong=wrong.total(),
        reasons=dict(wrong),
        events_acknowledged=len(told.posted),
        events_missing=missing,
        cache="redis" if with_redis else "memory",
        workers_killed=told.killed,
        reloads=told.reloads,
        cache_stops=told.cache_stops,
        clients_cut=told.cut,
        rss_before_mib=_memory_before(told),
        rss_mib=rss_mib,
        rss_growth=rss_mib[-1] / rss_mib[0] - 1 if len(rss_mib) > 1 else None,
        tracebacks=printed.count("Traceback (most recent call last)"),
        seconds=seconds,
    )


def _memory(told: _Told) -> list[float]:
    """MiB after each round of faults, always at the same distance from it: the medians of like stretches of the run.

    Memory climbs for a while when a bundle has been taken up, so the stretches begin half the
    shortest pause after a round, and end where that pause does.
    """
    pause = min(
        (begin - end for (_, end), (begin, _) in pairwise([*told.rounds, (1.0, 1.0)])), default=0.0
    )
    stretches = (
        [mib for share, mib in told.rss if end + pause / 2 <= share <= end + pause]
        for _, end in told.rounds
    )
    return [float(np.median(mib)) for mib in stretches if mib] or [told.rss[-1][1]]


def _memory_before(told: _Told) -> float:
    """MiB before the first round: the median."""
    first = told.rounds[0][0] if told.rounds else 1.0
    return float(np.median([mib for share, mib in told.rss if share <= first]))


def _stored(events: Path) -> list[tuple[Any, Any]]:
    with sqlite3.connect(f"file:{events}?mode=ro", uri=True) as connection:
        rows = connection.execute("SELECT user_id, item_id FROM events").fetchall()
    connection.close()
    return rows


def _copy(folder: Path, target: Path) -> Path:
    """A copy that shares the files."""
    shutil.copytree(folder, target, copy_function=os.link)
    return target


@contextmanager
def _maybe(server: RedisProcess | None) -> Iterator[None]:
    if server is None:
        yield
    else:
        with server:
            yield


# Beside the load, each in a thread of its own


def _thread(told: _Told, call: Callable, *arguments: Any) -> threading.Thread:
    def guarded() -> None:
        try:
            if sys.platform == "linux":  # there a thread has a priority of its own
                os.setpriority(os.PRIO_PROCESS, 0, NICE)
            call(*arguments)
        except BaseException as error:  # raised again where the run is judged
            told.errors.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    return thread


def _make_faults(
    told: _Told,
    server: ServerProcess,
    cache: RedisProcess | None,
    reload: Callable[[int], None],
    rounds: int,
    share: Callable[[], float],
    over: threading.Event,
) -> None:
    """Rounds of faults at even distances; a fault that is due late happens late."""
    for number in range(rounds):
        at = FIRST + (LAST - FIRST) * number / rounds
        while share() < at and not over.wait(0.05):
            pass
        if over.is_set():
            return
        begun = share()
        victim = max(
            server.workers(), key=_clients
        )  # the kernel may give every connection to one worker
        with suppress(psutil.NoSuchProcess):
            psutil.Process(victim).send_signal(signal.SIGKILL)
            told.killed += 1
        _wait_for_workers(server, victim, over)
        if cache is not None and not over.is_set():
            cache.kill(signal.SIGTERM if number % 2 else signal.SIGKILL)
            told.cache_stops += 1
            over.wait(REDIS_AWAY_S)
            cache.start()
        if not over.is_set():
            reload(number)
            told.reloads += 1
            over.wait(2.0)  # until the workers have it
        told.rounds.append((begun, share()))


def _clients(worker: int) -> int:
    """Connections that a worker has."""
    with suppress(psutil.Error):
        return len(psutil.Process(worker).net_connections("tcp"))
    return 0


def _wait_for_workers(server: ServerProcess, gone: int, over: threading.Event) -> None:
    """Until the one that was killed has been replaced."""
    for _ in range(200):
        workers = server.workers()
        if (len(workers) >= 2 and gone not in workers and server.ready()) or over.wait(0.05):
            return


def _cut_clients(told: _Told, server: ServerProcess, bench: Bench, over: threading.Event) -> None:
    """Clients that hang up: in the middle of their request, or without waiting for the answer."""
    users = bench.bundles.parts.user_ids
    rng = np.random.default_rng(bench.seed)
    while not over.wait(CUT_EVERY_S):
        body = msgspec.json.encode({"user_id": rng.choice(users).item(), "k": K})
        head = f"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        message = head.encode() + b"\r\n\r\n" + body
        with suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 2) as client:
            client.sendall(message[: len(message) - 5] if told.cut % 2 else message)
            client.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )  # reset, no goodbye
            told.cut += 1


def _audit(told: _Told, server: ServerProcess, bench: Bench, over: threading.Event) -> None:
    """Post events of users that nobody else asks for, and ask for them right after the acknowledgement.

    Where a connection breaks, nobody knows whether the event was stored: that user is left alone
    from then on.
    """
    users = [bench.bundles.parts.user_ids[u].item() for u in bench.workload.order[::-1]]
    items = bench.bundles.parts.items["item_id"].to_list()
    rng = np.random.default_rng(bench.seed)
    events: list[Any] = []
    while not over.wait(AUDIT_EVERY_S):
        if len(events) == 5:  # on to the next user
            users.pop(0)
            events = []
        user, item = users[0], items[rng.integers(len(items))]
        try:
            if _post(server.port, "/events", {"user_id": user, "item_id": item})[0] != 201:
                continue
            told.posted.append((user, item))
            events = [*events, item]
            status, answer = _post(
                server.port, "/recommend", {"user_id": user, "k": K, "include_titles": False}
            )
            if status == 200:
                told.audited.append((user, events, answer))
        except (OSError, http.client.HTTPException):
            users.pop(0)
            events = []


def _post(port: int, path: str, value: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(
            "POST", path, msgspec.json.encode(value), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        return response.status, msgspec.json.decode(response.read())
    finally:
        connection.close()


def _watch_memory(
    told: _Told, server: ServerProcess, share: Callable[[], float], over: threading.Event
) -> None:
    while not over.is_set():
        told.rss.append((share(), server.rss_mib()))
        over.wait(RSS_EVERY_S)
