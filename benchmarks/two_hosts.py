"""Two equal hosts behind nginx with one Redis: one is killed under load and comes back.

It starts two servers with folders of their own, nginx with the configuration of the compose file,
and Redis, all on 127.0.0.1. First each host is asked for what the other one knows: a cached answer,
and an event that was just posted. Then clients send requests and events through nginx, and at a
third of them all processes of one host are killed. It starts again at two thirds. Every answer is
compared with a direct computation from the user's history and the events stored until then, as
the soak test does. At last every acknowledged event is looked for in Redis.

A client tries again when it gets 502, 503 or no answer. An event in flight in the killed host gets
502 and may be stored all the same, so such an event can be in Redis twice.
"""

import argparse
import asyncio
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec
import numpy as np
import redis

from benchmarks.soak import DirectAnswer, K, RedisProcess, conclude, gather_in_fp32
from nanorecsys.loadtest.server_process import ServerProcess
from nanorecsys.serving.bundle import Parts, build_bundle
from nanorecsys.system.errors import NanorecsysError
from nanorecsys.system.processes import free_port

CONF = Path(__file__).parents[1] / "server" / "nginx.conf"
READERS, POSTERS, ATTEMPTS, EVENTS_PER_USER = 12, 4, 10, 5
READ_USERS = 1000  # users of the readers, so that answers come from the cache too
CHECKED = 20  # users for whom each host is asked for what the other one knows
TIMEOUT_S = 20.0
EPILOG = """
examples:
  python -m benchmarks.two_hosts                                     20,000 requests, about a minute
  python -m benchmarks.two_hosts --requests 2000 --events 200        a short one
"""


class Nginx:
    """nginx before two ports of 127.0.0.1, with the configuration that compose.yaml mounts."""

    def __init__(self, folder: Path, ports: tuple[int, int]) -> None:
        self.folder, self.port = folder, free_port()
        conf = CONF.read_text().replace("/tmp/", f"{folder}/")
        conf = conf.replace("listen 8080", f"listen 127.0.0.1:{self.port}")
        for name, port in zip(("one", "two"), ports, strict=True):
            conf = conf.replace(f"server {name}:8000", f"server 127.0.0.1:{port}")
        (folder / "nginx.conf").write_text(conf)

    @staticmethod
    def available() -> bool:
        """Whether this machine has nginx."""
        return shutil.which("nginx") is not None

    def __enter__(self) -> Self:
        command = ["nginx", "-p", str(self.folder), "-c", "nginx.conf", "-e", "stderr"]
        with (self.folder / "nginx.log").open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log)
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(10)


@dataclass
class Report:
    """Counts of a run.

    Args:
        cached_by_the_other: Answers that a host took from the cache after the other computed them.
        known_to_the_other: Events that were in the next answer of the other host.
        answered: Requests answered with 200.
        from_cache: Those answered from the cache.
        by_host: Those that each host answered.
        lost: Requests without an answer after all attempts.
        wrong: Wrong answers by what is wrong.
        events: Events acknowledged.
        events_lost: Acknowledged events that are not in Redis in the order of their posts.
        events_twice: Events in Redis twice, after a client got no acknowledgement.
        tried_again: Requests and events that needed more than one attempt.
        events_away: Events acknowledged while one host was down.
        requests_away: Requests answered while one host was down.
        back: Requests that the killed host answered after its return.
        seconds: Duration of the load.
    """

    cached_by_the_other: int = 0
    known_to_the_other: int = 0
    answered: int = 0
    from_cache: int = 0
    by_host: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    events: int = 0
    events_lost: int = 0
    events_twice: int = 0
    tried_again: Counter[str] = field(default_factory=Counter)
    events_away: int = 0
    requests_away: int = 0
    back: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether each host knows what the other one does, and nothing was lost or wrong."""
        equal = self.cached_by_the_other == self.known_to_the_other == CHECKED
        both = self.events_away and self.requests_away and self.back
        return bool(equal and both and not (self.lost or self.wrong or self.events_lost))


def run(parts: Parts, folder: Path, requests: int, events: int, seed: int = 0) -> Report:
    """Start two hosts, load them, kill one, and judge what came back.

    Args:
        parts: Bundle of both hosts, with the tower in fp32.
        folder: Folder for all files.
        requests: Number of requests, of which one follows each event.
        events: Number of events.
        seed: Random seed of users and items.
    """
    with ExitStack() as stack:
        store = stack.enter_context(RedisProcess())
        build_bundle(folder / "bundle", parts)
        hosts = []
        for name in ("one", "two"):
            # A copy, since a bundle that is built again has another id.
            bundle = shutil.copytree(folder / "bundle", folder / name / "bundle")
            arguments = ["--bundle", bundle, "--workers", 1, "--deadline-ms", 9000]
            arguments += ["--events", store.url, "--cache", store.url]
            host = ServerProcess(arguments, log=folder / name / "server.log")
            hosts.append(stack.enter_context(host))
        balancer = stack.enter_context(Nginx(folder, (hosts[0].port, hosts[1].port)))
        load = _Load(parts, hosts, balancer.port, requests, events, seed)
        asyncio.run(load.run())
        load.judge(DirectAnswer(folder / "bundle"), store)
        for host in hosts:
            if "Traceback" in host.printed():
                load.report.wrong["a traceback"] += 1
    return load.report


class _Load:
    def __init__(
        self,
        parts: Parts,
        hosts: list[ServerProcess],
        port: int,
        requests: int,
        events: int,
        seed: int,
    ) -> None:
        self.hosts, self.requests = hosts, requests
        self.urls = [f"http://127.0.0.1:{host.port}" for host in hosts]
        self.url = f"http://127.0.0.1:{port}"
        self.rng = np.random.default_rng(seed)
        users = self.rng.permutation(np.asarray(parts.user_ids)).tolist()
        self.checked = users[:CHECKED]
        # Readers and posters have users of their own: the history of a reader's user stays.
        middle = min(READ_USERS, (len(users) - CHECKED) // 2) + CHECKED
        self.read = users[CHECKED:middle]
        each = max(EVENTS_PER_USER, math.ceil(events / len(users[middle:])))
        self.posts = iter(
            (user_id, min(each, events - first))
            for user_id, first in zip(users[middle:], range(0, events, each), strict=False)
        )
        self.items = parts.items["item_id"].tolist()
        self.report = Report()
        self.reads = iter(range(requests - events))
        self.acknowledged: dict[Any, list[Any]] = defaultdict(list)
        # Of each answer: the user, the number of acknowledged events, and the answer.
        self.answers: list[tuple[Any, int, dict[str, Any]]] = []
        self.names: dict[str, str] = {}  # host by worker
        self.is_away = self.is_back = False

    async def run(self) -> None:
        """Ask each host for what the other one knows, then load both while one is killed."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as self.session:
            self.learn_workers()
            await self.check_equality()
            start = time.monotonic()
            tasks = [self.reader() for _ in range(READERS)]
            tasks += [self.poster() for _ in range(POSTERS)]
            await asyncio.gather(self.kill_one(), *tasks)
            self.report.seconds = time.monotonic() - start
            await self.check_return()

    def learn_workers(self) -> None:
        """Note which host has which workers."""
        for name, host in zip(("one", "two"), self.hosts, strict=True):
            self.names |= {str(pid): name for pid in host.pids()}

    async def check_equality(self) -> None:
        """Ask a host for an answer that the other one has computed, and for its event."""
        for number, user_id in enumerate(self.checked):
            here, there = self.urls if number % 2 else self.urls[::-1]
            await self.send(f"{here}/recommend", _request(user_id))
            answer = await self.send(f"{there}/recommend", _request(user_id))
            self.report.cached_by_the_other += answer["source"] == "cache"
            event = {"user_id": user_id, "item_id": answer["items"][0]["item_id"]}
            await self.send(f"{here}/events", event)
            self.acknowledged[user_id].append(event["item_id"])
            after = await self.send(f"{there}/recommend", _request(user_id))
            shown = {item["item_id"] for item in after["items"]}
            is_new = after["source"] == "model" and event["item_id"] not in shown
            self.report.known_to_the_other += is_new
            self.answers.append((user_id, 1, after))

    async def reader(self) -> None:
        """Send one request after another."""
        for _ in self.reads:
            await self.ask(self.read[self.rng.integers(len(self.read))])

    async def poster(self) -> None:
        """Post different items for one user after another, and ask right after each event."""
        for user_id, number in self.posts:
            for item in self.rng.permutation(len(self.items))[:number]:
                event = {"user_id": user_id, "item_id": self.items[item]}
                if await self.send(f"{self.url}/events", event) is None:
                    self.report.lost += 1
                    continue
                self.acknowledged[user_id].append(event["item_id"])
                self.report.events += 1
                self.report.events_away += self.is_away
                await self.ask(user_id)

    async def ask(self, user_id: Any) -> None:
        """Ask for a user through nginx and keep the answer."""
        posted = len(self.acknowledged.get(user_id, ()))
        answer = await self.send(f"{self.url}/recommend", _request(user_id))
        if answer is None:
            self.report.lost += 1
            return
        self.answers.append((user_id, posted, answer))
        self.report.answered += 1
        self.report.from_cache += answer["source"] == "cache"
        name = self.names[answer["worker"]]
        self.report.by_host[name] += 1
        self.report.requests_away += self.is_away
        self.report.back += self.is_back and name == "one"

    async def send(self, url: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """Send a request until it is accepted; None after all attempts."""
        for attempt in range(ATTEMPTS):
            with suppress(aiohttp.ClientError, TimeoutError):
                async with self.session.post(url, json=body) as response:
                    if response.ok:
                        worker = response.headers.get("X-Worker", "")
                        return {**await response.json(), "worker": worker}
            if attempt == 0:
                self.report.tried_again[url.rpartition("/")[2]] += 1
            await asyncio.sleep(0.05 * (attempt + 1))
        return None

    async def kill_one(self) -> None:
        """Kill a host at a third of the requests, and start it again at two thirds."""
        await self.until(1 / 3)
        family = self.hosts[0].processes()
        for process in family:
            process.kill()
        await asyncio.to_thread(self.hosts[0].stop)
        self.is_away = True
        await self.until(2 / 3)
        self.is_away = False
        await asyncio.to_thread(self.hosts[0].start)
        self.learn_workers()
        self.is_back = True

    async def check_return(self) -> None:
        """Ask through nginx until the killed host answers again."""
        for user_id in self.read:
            if self.report.back:
                return
            await self.ask(user_id)
            await asyncio.sleep(0.05)

    async def until(self, share: float) -> None:
        """Wait until a share of the requests is answered."""
        while self.report.answered + self.report.lost < share * self.requests:
            await asyncio.sleep(0.01)

    def judge(self, direct: DirectAnswer, store: RedisProcess) -> None:
        """Look for each acknowledged event in Redis, and compare all answers with direct ones."""
        report = self.report
        stored: dict[Any, list[Any]] = {}
        with closing(redis.Redis(port=store.port)) as client:
            for user_id, posted in self.acknowledged.items():
                key = b"nanorecsys:events:" + msgspec.json.encode(user_id)
                rows = map(msgspec.json.decode, client.lrange(key, 0, -1))
                stored[user_id] = [item for item, _ in rows]
                once = list(dict.fromkeys(stored[user_id]))
                report.events_lost += sum(item not in once for item in posted)
                if [item for item in once if item in posted] != posted:
                    report.wrong["events in another order"] += 1
                report.events_twice += len(stored[user_id]) - len(once)
        seen: dict[bytes, str] = {}
        for user_id, posted, answer in self.answers:
            known: list[Any] = []
            if posted:
                last = self.acknowledged[user_id][posted - 1]
                known = stored[user_id][: len(stored[user_id]) - stored[user_id][::-1].index(last)]
            key = msgspec.json.encode((user_id, known, answer["items"]))
            if key not in seen:
                seen[key] = direct.fault(user_id, answer["items"], known)
            fault = "unread events" if "events_unread" in answer else seen[key]
            if fault:
                report.wrong[fault] += 1


def _request(user_id: Any) -> dict[str, Any]:
    return {"user_id": user_id, "k": K, "include_titles": False}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path("data/runs/quick"), help="finished run")
    parser.add_argument("--requests", type=int, default=20_000, help="number of requests")
    parser.add_argument("--events", type=int, default=2000, help="number of events")
    arguments = parser.parse_args()
    if not (RedisProcess.available() and Nginx.available()):
        raise NanorecsysError(
            "expected redis-server and nginx", "apt-get install redis nginx-light"
        )
    with tempfile.TemporaryDirectory(prefix="two-hosts-") as folder:
        parts = gather_in_fp32(arguments.run)
        report = run(parts, Path(folder), arguments.requests, arguments.events)
    return conclude(report)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NanorecsysError as error:
        sys.exit(f"error: {error}")
