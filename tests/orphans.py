"""What becomes of a process whose parent is killed."""

import subprocess
import sys

import psutil


def child_ends(script: str) -> bool:
    """Kill a script that writes the id of a child of its own; whether the child ends as well."""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        return child in psutil.wait_procs([child], timeout=10)[0]
