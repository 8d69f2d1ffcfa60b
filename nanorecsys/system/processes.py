"""Programs that the study starts: a free port, and an end with the process that started them."""

import shutil
import signal
import socket
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
