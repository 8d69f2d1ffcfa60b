"""Processes that are measured: their CPU time and memory, and a server to start and stop."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from nanorecsys.loadtest.errors import ServerStartError

START_S, STOP_S = 60.0, 20.0  # longest waits
# so that a server ends with whoever started it, killed or not; elsewhere than on Linux there is no
# such thing
_WITH_PARENT = ("setpriv", "--pdeathsig", "TERM")


def tree(pids: Iterable[int]) -> list[psutil.Process]:
    """The living processes of these ids and all their descendants, each once."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            found |= {p.pid: p for p in (root, *root.children(recursive=True))}
    return list(found.values())


def tree_cpu_s(pids: Iterable[int]) -> float:
    """User and system seconds of the processes and their descendants, with those that ended and were waited for.

    The system counts in ticks of 10 ms: take differences over seconds.
    """
    total = 0.0
    for process in tree(pids):
        with suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            total += used.user + used.system + used.children_user + used.children_system
    return total


def memory_mib(pids: Iterable[int]) -> float:
    """Resident memory of the processes and their descendants; a page that n of them share counts 1/n for each (PSS).

    Where the system does not tell (not Linux), plain resident memory, in which shared pages count
    each time.
    """
    total = 0
    for process in tree(pids):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            linux = sys.platform == "linux"
            total += process.memory_full_info().pss if linux else process.memory_info().rss
    return total / 2**20


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


class ServerProcess:
    """A server in processes of its own, from its start until the block or the thread that started it ends.

    with ServerProcess(["--bundle", folder, "--workers", "2"]) as server:
        server.url, server.cpu_s(), server.signal(signal.SIGHUP)
    """

    def __init__(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        command: Sequence[str] = (sys.executable, "-m", "server"),
        log: Path | None = None,
        start_s: float = START_S,
    ) -> None:
        """What to start; entering the block starts it.

        Args:
            arguments: of the server; its --port is chosen here.
            env: added to the environment.
            command: what is started.
            log: file for what it prints; a temporary one by default.
            start_s: longest wait until it is ready.
        """
        self.port = free_port()
        self.command = [*command, *map(str, arguments), "--port", str(self.port)]
        self.env = os.environ | dict(env or {})
        self._temporary = log is None
        self.log = log or Path(tempfile.mkstemp(prefix="server-", suffix=".log")[1])
        self.start_s = start_s

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process that was started: the root of the tree."""
        return self.process.pid

    def __enter__(self) -> Self:
        """Start it, and wait until /readyz answers 200.

        Raises:
            ServerStartError: it ended or was not ready in time; with the end of what it printed.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [*_WITH_PARENT, *self.command] if shutil.which(_WITH_PARENT[0]) else self.command
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self.env, start_new_session=True
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def pids(self) -> list[int]:
        """The process that was started and its descendants, now."""
        return [p.pid for p in tree([self.pid])]

    def workers(self) -> list[int]:
        """The processes that it has started itself, now; itself where there are none."""
        return self.pids()[1:] or [self.pid]

    def cpu_s(self) -> float:
        """CPU seconds so far, see `tree_cpu_s`."""
        return tree_cpu_s([self.pid])

    def rss_mib(self) -> float:
        """Resident memory now, see `memory_mib`."""
        return memory_mib([self.pid])

    def ready(self) -> bool:
        """Whether /readyz answers 200."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as response:
                return response.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def printed(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def signal(self, number: int) -> None:
        """Send the process that was started a signal."""
        self.process.send_signal(number)

    def stop(self, within_s: float = STOP_S) -> int:
        """SIGTERM, then SIGKILL for all that is left after `within_s`. Returns its exit status."""
        family = tree([self.pid])
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(within_s)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()  # psutil knows a process by its start too, so never another one of the same id
        status = self.process.wait()
        if self._temporary:
            self.log.unlink(missing_ok=True)
        return status

    def _wait(self) -> None:
        began = time.monotonic()
        while not self.ready():
            status = self.process.poll()
            if status is not None or time.monotonic() - began > self.start_s:
                why = (
                    f"ended with status {status}"
                    if status is not None
                    else f"was not ready in {self.start_s:g} s"
                )
                raise ServerStartError(
                    f"the server {why}: {self.printed().strip()[-1500:] or 'it printed nothing'}",
                    f"Start it by hand: {' '.join(self.command)}",
                )
            time.sleep(0.05)
