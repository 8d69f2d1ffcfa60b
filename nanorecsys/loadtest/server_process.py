"""A server to start and stop, and the memory of its processes."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from nanorecsys.loadtest.errors import LoadTestError
from nanorecsys.system.processes import end_with_parent, free_port

START_S, STOP_S = 180.0, 20.0  # longest waits; a start may compile PyTorch models
_COMMAND = (sys.executable, "-m", "server")


class ServerProcess:
    """A server that runs in its own processes until the block ends.

    with ServerProcess(["--bundle", folder, "--workers", "2"], log=path) as server:
        server.port, server.pids(), server.signal(signal.SIGHUP)

    Args:
        arguments: Arguments of the server; its --port is added.
        log: File for its output.
        command: Command that the arguments are added to.
    """

    def __init__(
        self, arguments: Sequence[object], log: Path, *, command: Sequence[str] = _COMMAND
    ) -> None:
        self.port = free_port()
        self.command = [*command, *map(str, arguments), "--port", str(self.port)]
        self.log = log

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until /readyz answers 200.

        Raises:
            LoadTestError: It ended or was not ready in time; the message has its last output.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                end_with_parent(self.command), stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def processes(self) -> list[psutil.Process]:
        """List the process that was started, then its descendants."""
        if self.process.poll() is not None:
            return []
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        return []

    def pids(self) -> list[int]:
        """List the process ids of all its processes."""
        return [process.pid for process in self.processes()]

    def rss_mib(self) -> float:
        """Measure resident memory; a page that n processes share counts 1/n for each (Linux)."""
        total = 0
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                used = process.memory_full_info()
                total += getattr(used, "pss", used.rss)
        return total / 2**20

    def ready(self) -> bool:
        """Whether /readyz answers 200."""
        url = f"http://127.0.0.1:{self.port}/readyz"
        with suppress(OSError), urllib.request.urlopen(url, timeout=2) as response:
            return response.status == 200
        return False

    def printed(self) -> str:
        """Read its output so far."""
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal to the process that was started."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """Send SIGTERM, later SIGKILL to all that is left, and return the exit status."""
        family = self.processes()
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return self.process.wait()

    def _wait(self) -> None:
        began = time.monotonic()
        while not self.ready():
            status = self.process.poll()
            late = time.monotonic() - began > START_S
            if status is not None or late:
                ended = f"ended with status {status}" if status is not None else "was not ready"
                raise LoadTestError(
                    f"the server {ended} after {time.monotonic() - began:.1f} s: "
                    f"{self.printed().strip()[-1500:] or 'it printed nothing'}",
                    f"Start it by hand: {' '.join(self.command)}",
                )
            time.sleep(0.05)
