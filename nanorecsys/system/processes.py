"""Processes that the study starts: a free port, and an end with the process that started them."""

import multiprocessing
import os
import shutil
import signal
import socket
import threading
from collections.abc import Sequence


def free_port() -> int:
    """A port of 127.0.0.1 that no program uses just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def end_with_parent(command: Sequence[str], by: signal.Signals = signal.SIGTERM) -> list[str]:
    """A command that gets a signal when the process that starts it ends, also where that is killed.

    It is unchanged where there is no setpriv, which is part of Linux.
    """
    found = shutil.which("setpriv")
    name = by.name.removeprefix("SIG")
    return [*((found, "--pdeathsig", name) if found else ()), *command]


def watch_parent() -> None:
    """End this process when the one that started it has ended, also where that was killed.

    A worker of a pool calls it first: otherwise it would wait for work for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
