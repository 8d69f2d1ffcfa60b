"""A check from outside: the server under wrk, in a closed loop, with the CPU time of a request.

It starts `python -m server` on a free port, warms the hot set, and loads it with a mixed load
(30 % new users), with new users alone, and with the hot set alone. Every server that is named
takes its turn in every round, so two versions are compared on the same machine at the same time.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from nanorecsys.loadtest.generator import cpu_seconds

HERE = Path(__file__).resolve().parent
HOT = 1000  # users of the hot set
LOADS = {"mixed": 0.3, "cold": 1.0, "hits": 0.0}

EPILOG = """
examples:
  python benchmarks/wrk/run.py now=.:data/runs/quick/bundle
  python benchmarks/wrk/run.py before=../old:/tmp/old-bundle now=.:/tmp/bundle --rounds 5
  python benchmarks/wrk/run.py two=.:/tmp/bundle --server "--workers 2 --threads 1"

A server is NAME=CHECKOUT:BUNDLE; CHECKOUT/.venv/bin/python runs it if it is there. The bundle needs
users 1, 2, 3, ...: those of the load test's bootstrapped population. needs wrk (Debian has it).
How to read it: medians over the rounds, lowest and highest in brackets; a refusal is no answer.
Compare within one run. Overload: --connections 64, then 128, 256 and 800.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("servers", nargs="+", metavar="NAME=CHECKOUT:BUNDLE")
    parser.add_argument("--server", default="", help="options of every server")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=8, help="length of one load")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for round_ in range(arguments.rounds):
        for text in arguments.servers:
            name, _, place = text.partition("=")
            checkout, _, bundle = place.partition(":")
            for load, result in measure(Path(checkout), Path(bundle), arguments).items():
                found.setdefault((load, name), []).append(result)
                print(f"round {round_ + 1}  {load:6} {name:10} {result}", flush=True)
    header = f"{'answers/s':>24} {'CPU ms a request':>22} {'P99 ms':>20}"
    print(f"\n{'load':6} {'server':10} {header}")
    for (load, name), results in sorted(found.items()):
        shown = [spread([r[key] for r in results]) for key in ("rate", "cpu_ms", "p99_ms")]
        failed = sum(r["refused"] + r["failed"] for r in results)
        figures = f"{shown[0]:>24} {shown[1]:>22} {shown[2]:>20}"
        print(f"{load:6} {name:10} {figures}  {failed:.0f} not answered")


def measure(
    checkout: Path, bundle: Path, arguments: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Results of each load against a server that is started for it."""
    python = checkout / ".venv" / "bin" / "python"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(python.absolute()) if python.exists() else sys.executable, "-m", "server"]
    command += ["--bundle", str(bundle.resolve()), "--port", str(port), *arguments.server.split()]
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
    server = subprocess.Popen(command, cwd=checkout, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(server, port)
        results = {}
        wrk(port, 0.0, 1, 3, arguments.connections)  # fills the cache
        first = HOT + 1
        for load, cold in LOADS.items():
            before = cpu_seconds(server.pid)
            result = wrk(port, cold, first, arguments.seconds, arguments.connections)
            first += round(cold * result["requests"]) + HOT  # a new user is new once
            result["cpu_ms"] = 1e3 * (cpu_seconds(server.pid) - before) / result["requests"]
            answered = result["requests"] - result["refused"]
            result["rate"] = answered / result["seconds"]
            results[load] = result
        return results
    finally:
        server.terminate()
        server.wait(timeout=60)


def wait_until_ready(server: subprocess.Popen, port: int, seconds: float = 60.0) -> None:
    """Return when /readyz answers 200."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    sys.exit("the server did not become ready")


def wrk(port: int, cold: float, first: int, seconds: int, connections: int) -> dict[str, float]:
    """What users.lua reports of one load.

    Args:
        port: Port of the server.
        cold: Share of new users.
        first: Number of the first new user.
        seconds: Length of the load.
        connections: Number of connections, each of which waits for its answer.
    """
    settings = {"COLD": str(cold), "FIRST": str(first), "HOT": str(HOT)}
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    command += ["-s", str(HERE / "users.lua"), f"http://127.0.0.1:{port}"]
    done = subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, check=True
    )
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


def spread(values: list[float]) -> str:
    """Median, lowest and highest, as text."""
    low, middle, high = min(values), statistics.median(values), max(values)
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 3
    return f"{middle:,.{digits}f} [{low:,.{digits}f}-{high:,.{digits}f}]"


if __name__ == "__main__":
    main()
