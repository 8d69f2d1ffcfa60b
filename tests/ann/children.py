"""Functions that tests call in child processes."""

import os
import signal
import sys


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def look_around() -> tuple[list[str], dict[str, str]]:
    return sorted(sys.modules), dict(os.environ)
