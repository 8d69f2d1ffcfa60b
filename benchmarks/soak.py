"""Soak test: requests while workers are killed, bundles replaced, Redis stopped, clients cut off.

It starts the server with two workers on 127.0.0.1, sends requests from a run's users, and counts
what was lost or wrong. A sample of the answers is compared with a direct computation by the bundle
that the answer names. In int8, the scores of a history depend slightly on its batch, so the bundles
have the tower in fp32. An answer is right if its items are unseen and different, each score is the
direct one, and no item lies below the last place of the direct answer, less one item that an
approximate index may lose to rounding.
"""

import argparse
import asyncio
import dataclasses
import itertools
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec
import numpy as np
import psutil
import redis

from nanorecsys.ann.bundle import fp32_tower, gather
from nanorecsys.data import Histories
from nanorecsys.loadtest.errors import LoadTestError
from nanorecsys.loadtest.server_process import ServerProcess
from nanorecsys.serving.bundle import Parts, build_bundle, open_bundle
from nanorecsys.serving.padding import padded
from nanorecsys.system.blas import faiss
from nanorecsys.system.errors import NanorecsysError
from nanorecsys.system.processes import free_port

K, CANDIDATES = 10, 100
TOLERANCE = 1e-3  # difference of a score that the order of fp32 sums may cause, with a margin
MAY_LACK = 1  # items of a direct answer that an approximate index may lose
CLIENTS, ATTEMPTS = 16, 7
TIMEOUT_S = 20.0
MAY_GROW = 1.1  # memory after the last round of faults over that after the first
AUDIT_EVERY_S, CUT_EVERY_S, REDIS_AWAY_S = 0.1, 0.1, 1.0
FIRST, LAST = 0.05, 0.85  # shares of the requests between which faults happen
EPILOG = """
examples:
  python benchmarks/soak.py                                  the full run, 200,000 requests
  python benchmarks/soak.py --requests 5000 --rate 200       a short one at 200 requests a second
"""


class RedisProcess:
    """A redis-server on a free port of 127.0.0.1 that keeps nothing on disk.

    with RedisProcess() as server:
        server.url, server.kill(), server.start()
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    @staticmethod
    def available() -> bool:
        """Whether this machine has a redis-server."""
        return shutil.which("redis-server") is not None

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = f"--bind 127.0.0.1 --port {self.port} --appendonly no --dir {self.folder}"
        self.process = subprocess.Popen(
            ["redis-server", *settings.split(), "--save", ""],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(200):
            with suppress(redis.RedisError), closing(redis.Redis(port=self.port)) as client:
                client.ping()
                return
            time.sleep(0.02)
        raise NanorecsysError("redis-server does not answer", "Start it by hand to see why.")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it with a signal."""
        self.process.send_signal(number)
        self.process.wait(10)

    def __enter__(self) -> Self:
        self.folder = tempfile.mkdtemp(prefix="redis-")
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class DirectAnswer:
    """Answers of a bundle, computed in this process without the server's code."""

    def __init__(self, folder: Path) -> None:
        faiss.omp_set_num_threads(1)
        self.bundle = open_bundle(folder)
        self.item_ids = self.bundle.items["item_id"].to_numpy()

    def fault(
        self, user_id: int | str, items: Sequence[dict[str, Any]], posted: Sequence[int | str] = ()
    ) -> str:
        """Say what is wrong with an answer, or return an empty text.

        Args:
            user_id: User of the request.
            items: Items of the answer, each with item_id and score.
            posted: Item ids of the user's events since the bundle was built, oldest first.
        """
        bundle = self.bundle
        numbers = [bundle.item_numbers.get(item["item_id"], -1) for item in items]
        if len(numbers) != K or len(set(numbers)) != K or min(numbers) < 0:
            return f"expected {K} different items, got {len(set(numbers))}"
        history = self.history(user_id, posted)
        if not set(numbers).isdisjoint(history.tolist()):
            return "an item that the user has seen"
        user = self.user_vector(history)
        # An index that re-ranks finds other items at another depth, so ask at the server's depth
        # first.
        for depth in (CANDIDATES + min(len(history), CANDIDATES), 2 * CANDIDATES + len(history)):
            found = bundle.index.search(user, min(depth, bundle.manifest.n_items))[1][0]
            candidates = found[(found >= 0) & ~np.isin(found, history)][:CANDIDATES]
            if len(candidates) == CANDIDATES:
                break
        direct = self.scores(user, candidates)
        own = self.scores(user, np.array(numbers))
        given = np.array([item["score"] for item in items])
        if (np.diff(given) > 0).any():
            return "scores that rise"
        if (difference := np.abs(own - given).max()) > TOLERANCE:
            return f"a score that is {difference:.2g} off"
        last_place = np.sort(direct)[-K - MAY_LACK]
        if (below := last_place - own.min()) > TOLERANCE:
            return f"an item {below:.2g} below the last place"
        return ""

    def history(self, user_id: int | str, posted: Sequence[int | str]) -> np.ndarray:
        """Items of the user, oldest first, int64 (n,)."""
        bundle = self.bundle
        user = bundle.user_numbers[user_id]
        start, stop = bundle.histories.offsets[user : user + 2]
        newer = [bundle.item_numbers[item] for item in posted]
        return np.concatenate([bundle.histories.items[start:stop], newer]).astype(np.int64)

    def user_vector(self, history: np.ndarray) -> np.ndarray:
        """Encode a history, float32 (1, d)."""
        alone = Histories(np.array([0, len(history)]), history.astype(np.int32))
        return self.bundle.encoder(*padded(alone, np.array([0]), self.bundle.manifest.events_read))

    def scores(self, user: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Score items int64 (n,), float32 (n,): by the ranker, else by the inner product."""
        if self.bundle.ranker is None:
            return self.bundle.item_vectors[items] @ user[0]
        return self.bundle.ranker(user, items[None].astype(np.int64))[0]


@dataclass
class Report:
    """Counts of a soak test.

    Args:
        rounds: Rounds of faults asked for.
        answered, refused: Requests answered with 200 and with 503.
        retried: Requests that needed more than one connection.
        lost: Requests without an answer after all attempts.
        server_errors: Requests answered with another server error.
        compared: Answers compared with a direct computation.
        faults: Wrong answers by what is wrong.
        events: Events that the server acknowledged.
        events_missing: Acknowledged events that are not in the log.
        killed, reloads, redis_stops, cut: Faults made.
        rss_mib: Memory of the server after each round of faults, just before the next one.
        tracebacks: Tracebacks in the server's output.
    """

    rounds: int = 0
    answered: int = 0
    refused: int = 0
    retried: int = 0
    lost: int = 0
    server_errors: int = 0
    compared: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    events: int = 0
    events_missing: int = 0
    killed: int = 0
    reloads: int = 0
    redis_stops: int = 0
    cut: int = 0
    rss_mib: list[float] = field(default_factory=list)
    tracebacks: int = 0

    @property
    def passed(self) -> bool:
        """Whether all faults happened, nothing was lost or wrong, and memory did not grow.

        A server that refuses most requests does not pass.
        """
        complete = self.cut and self.killed == self.reloads == len(self.rss_mib) == self.rounds
        lost = self.lost or self.server_errors or self.events_missing
        wrong = self.faults or self.tracebacks
        grown = self.rss_mib and self.rss_mib[-1] > MAY_GROW * self.rss_mib[0]
        serves = self.compared and self.answered > self.refused
        return bool(complete and serves and not (lost or wrong or grown))


def gather_in_fp32(run: Path) -> Parts:
    """Gather a run's bundle with the tower in fp32, whose scores do not depend on the batch."""
    tower = fp32_tower(run)
    return dataclasses.replace(gather(run), tower=tower, tower_variant="fp32", tower_is_int8=False)


def soak(
    parts: Sequence[Parts],
    folder: Path,
    *,
    requests: int,
    rate: float = 0.0,
    rounds: int = 4,
    sample: int = 1500,
    seed: int = 0,
) -> Report:
    """Send requests, make faults, and judge what came back.

    Args:
        parts: Bundles that replace each other, with towers in fp32.
        folder: Folder for the bundle, the events and the server's log.
        requests: Number of requests.
        rate: Offered rate, requests/s; 0 for as many as are answered.
        rounds: Number of rounds of faults: a worker killed, Redis stopped, a bundle replaced.
        sample: Number of answers to compare with a direct computation.
        seed: Random seed of the users.
    """
    cache = RedisProcess() if RedisProcess.available() else None
    with cache or nullcontext():
        test = _Soak(parts, folder, cache, requests, rate, sample, seed)
        arguments = ["--bundle", test.live, "--workers", 2, "--threads", 2, "--lame-duck-s", 0]
        arguments += ["--cache", cache.url if cache else "memory", "--events", test.events]
        with ServerProcess(arguments, log=folder / "server.log") as server:
            test.server = server
            asyncio.run(test.run(rounds))
        test.report.tracebacks = server.printed().count("Traceback (most recent call last)")
    test.judge()
    return test.report


class _Soak:
    server: ServerProcess

    def __init__(
        self,
        parts: Sequence[Parts],
        folder: Path,
        cache: RedisProcess | None,
        requests: int,
        rate: float,
        sample: int,
        seed: int,
    ) -> None:
        self.parts, self.cache, self.requests, self.rate = parts, cache, requests, rate
        self.live, self.events = folder / "bundle", folder / "events.sqlite"
        self.keep_every = max(1, requests // sample)
        self.rng = np.random.default_rng(seed)
        users = self.rng.permutation(np.asarray(parts[0].user_ids)).tolist()
        self.audited, self.users = users[: len(users) // 4], users[len(users) // 4 :]
        self.report = Report()
        self.posted: list[tuple[Any, Any]] = []
        self.answers: list[tuple[Any, list[Any], dict[str, Any]]] = []
        self.direct: dict[str, DirectAnswer] = {}
        self.numbers = itertools.count()
        self.replace_bundle(0)

    def replace_bundle(self, number: int) -> None:
        """Put the next bundle in place and open it for direct answers."""
        build_bundle(self.live, self.parts[number % len(self.parts)])
        direct = DirectAnswer(self.live)
        self.direct[direct.bundle.manifest.id] = direct

    async def run(self, rounds: int) -> None:
        """Run the clients and, beside them, the faults."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        url = f"http://127.0.0.1:{self.server.port}"
        async with aiohttp.ClientSession(url, timeout=timeout) as self.session:
            self.start = time.monotonic()
            beside = [
                asyncio.create_task(part)
                for part in (self.make_faults(rounds), self.audit(), self.cut_clients())
            ]
            await asyncio.gather(*(self.client() for _ in range(CLIENTS)))
            for task in beside:
                task.cancel()
            for outcome in await asyncio.gather(*beside, return_exceptions=True):
                if isinstance(outcome, Exception):
                    raise outcome

    async def client(self) -> None:
        """Send one request after another."""
        while (number := next(self.numbers)) < self.requests:
            if self.rate:
                await asyncio.sleep(self.start + number / self.rate - time.monotonic())
            user_id = self.users[self.rng.integers(len(self.users))]
            for attempt in range(ATTEMPTS):
                try:
                    status, answer = await self.post("/recommend", self.request(user_id))
                except (aiohttp.ClientError, TimeoutError):
                    self.report.retried += attempt == 0
                    await asyncio.sleep(0.05 * (attempt + 1))
                else:
                    self.count(number, user_id, status, answer)
                    break
            else:
                self.report.lost += 1
                if not self.server.pids():
                    raise LoadTestError(f"the server ended: {self.server.printed()[-1500:]}")

    def count(self, number: int, user_id: Any, status: int, answer: dict[str, Any]) -> None:
        """Count an answer, and keep every n-th for the comparison."""
        self.report.answered += status == 200
        self.report.refused += status == 503
        self.report.server_errors += status >= 500 and status != 503
        if status == 200 and number % self.keep_every == 0:
            self.answers.append((user_id, [], answer))

    @staticmethod
    def request(user_id: Any) -> dict[str, Any]:
        """Body of a request."""
        return {"user_id": user_id, "k": K, "include_titles": False}

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Send a request; the status and the answer."""
        async with self.session.post(path, json=body) as response:
            return response.status, await response.json(content_type=None)

    async def make_faults(self, rounds: int) -> None:
        """Make rounds of faults at even distances, and measure memory one distance after each."""
        report = self.report
        report.rounds = rounds
        for number, share in enumerate(np.linspace(FIRST, LAST, rounds + 1)):
            while report.answered + report.refused + report.lost < share * self.requests:
                await asyncio.sleep(0.05)
            if number > 0:
                report.rss_mib.append(round(self.server.rss_mib(), 1))
            if number == rounds:
                break
            await self.kill_worker()
            if self.cache:
                self.cache.kill(signal.SIGTERM if number % 2 else signal.SIGKILL)
                report.redis_stops += 1
                await asyncio.sleep(REDIS_AWAY_S)
                await asyncio.to_thread(self.cache.start)
            await asyncio.to_thread(self.replace_bundle, number + 1)
            self.server.signal(signal.SIGHUP)
            report.reloads += 1

    async def kill_worker(self) -> None:
        """Kill the worker with the most connections, and wait until it is replaced."""
        victim = max(self.server.processes()[1:], key=_connections)
        victim.kill()
        self.report.killed += 1
        while victim.pid in self.server.pids() or len(self.server.pids()) < 3:
            await asyncio.sleep(0.05)

    async def cut_clients(self) -> None:
        """Hang up in the middle of a request, or before its answer."""
        while True:
            await asyncio.sleep(CUT_EVERY_S)
            user_id = self.users[self.rng.integers(len(self.users))]
            message = _message(self.request(user_id))
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", self.server.port), 2) as s,
            ):
                s.sendall(message[: len(message) - 5] if self.report.cut % 2 else message)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.report.cut += 1

    async def audit(self) -> None:
        """Post events of separate users, and ask right after the acknowledgement.

        Where a connection breaks, the event may or may not be stored, so the next user takes over.
        """
        items = list(self.parts[0].items["item_id"])
        for user_id in self.audited:
            events: list[Any] = []
            with suppress(aiohttp.ClientError, TimeoutError):
                for _ in range(5):
                    await asyncio.sleep(AUDIT_EVERY_S)
                    item = items[self.rng.integers(len(items))]
                    event = {"user_id": user_id, "item_id": item}
                    if (await self.post("/events", event))[0] != 201:
                        continue
                    self.posted.append((user_id, item))
                    events = [*events, item]
                    status, answer = await self.post("/recommend", self.request(user_id))
                    if status == 200:
                        self.answers.append((user_id, events, answer))

    def judge(self) -> None:
        """Compare the kept answers with direct ones, and the acknowledged events with the log."""
        report = self.report
        for user_id, posted, answer in self.answers:
            report.compared += 1
            direct = self.direct.get(answer["bundle"])
            fault = direct.fault(user_id, answer["items"], posted) if direct else "another bundle"
            if fault:
                report.faults[fault] += 1
        with closing(sqlite3.connect(f"file:{self.events}?mode=ro", uri=True)) as connection:
            stored = Counter(connection.execute("SELECT user_id, item_id FROM events").fetchall())
        report.events = len(self.posted)
        report.events_missing = (Counter(self.posted) - stored).total()


def _message(body: dict[str, Any]) -> bytes:
    """A whole request for a recommendation, as it is sent over a socket."""
    content = msgspec.json.encode(body)
    head = "POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def _connections(process: psutil.Process) -> int:
    """Count a process's connections: the kernel may give every client to one worker."""
    with suppress(psutil.Error):
        return len(process.net_connections("tcp"))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path("data/runs/quick"), help="finished run")
    parser.add_argument("--requests", type=int, default=200_000, help="number of requests")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second; 0: unlimited")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of faults")
    parser.add_argument("--sample", type=int, default=1500, help="answers to compare")
    arguments = parser.parse_args()
    indexed = gather_in_fp32(arguments.run)
    flat = dataclasses.replace(indexed, index=None, index_factory="Flat", index_search="")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        report = soak(
            [indexed, flat],
            Path(folder),
            requests=arguments.requests,
            rate=arguments.rate,
            rounds=arguments.rounds,
            sample=arguments.sample,
        )
    return conclude(report)


def conclude(report: Any) -> int:
    """Print the counts of a report and whether it passed; returns the exit code."""
    for name, value in vars(report).items():
        print(f"{name:20} {value}")
    print("passed" if report.passed else "FAILED")
    return 0 if report.passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NanorecsysError as error:
        sys.exit(f"error: {error}")
