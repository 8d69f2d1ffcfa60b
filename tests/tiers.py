"""Every tier of tests, with the seconds of each; `make test` and `.ci/run` call it.

The unit tests, which have one thread, run beside the tiers that run notebooks; what a tier prints is shown when it is
over. Arguments go to every pytest that runs folders of tests: `python tests/tiers.py -k splits`.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
# The unit tests' models are so small that a second thread costs more than it brings, most of all on a shared machine.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
PYTEST = [sys.executable, "-m", "pytest", "-q"]
NO_TESTS = 5  # pytest's exit code where a selection leaves none


class Tier(NamedTuple):
    """A command, and what is added to its environment."""

    name: str
    command: list[str]
    environment: dict[str, str]


class Tiers:
    """Runs lanes of tiers side by side; the first tier that fails ends them all."""

    def __init__(self, may_be_empty: bool) -> None:
        self.may_be_empty = may_be_empty
        self.seconds: list[tuple[str, float]] = []
        self.failed = ""
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen] = {}

    def run(self, *lanes: list[Tier]) -> None:
        """Run each lane's tiers one after the other."""
        threads = [threading.Thread(target=self._lane, args=(lane,)) for lane in lanes]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            self._end("interrupted")
            raise

    def _lane(self, tiers: list[Tier]) -> None:
        for tier in tiers:
            with self._lock:
                if self.failed:
                    return
                print(f"-- {tier.name}: started", flush=True)
                start = time.monotonic()
                self._running[tier.name] = process = subprocess.Popen(
                    tier.command,
                    cwd=ROOT,
                    env=os.environ | tier.environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,
                )
            printed = process.communicate()[0]
            with self._lock:
                del self._running[tier.name]
                spent = time.monotonic() - start
                self.seconds.append((tier.name, spent))
                if self.failed:  # ended because of another
                    return
                print(f"\n== {tier.name}: {spent:.0f} s\n{printed}", flush=True)
                wrong = process.returncode and not (self.may_be_empty and process.returncode == NO_TESTS)
            if wrong:
                self._end(tier.name)

    def _end(self, why: str) -> None:
        with self._lock:
            self.failed = self.failed or why
            for process in self._running.values():
                os.killpg(process.pid, signal.SIGTERM)


def main(arguments: list[str]) -> int:
    """Run the tiers. Returns the exit code."""
    nbval = ROOT / "data" / "runs" / "nbval"
    tiers = Tiers(may_be_empty=bool(arguments))
    start = time.monotonic()
    tiers.run([Tier("style", [str(BIN / "ruff"), "check", "."], {})])
    tiers.run(
        [
            Tier(
                "unit and property tests",
                [*PYTEST, "--doctest-modules", "nanorecsys", *unit_folders(), *arguments],
                ONE_THREAD,
            )
        ],
        [
            Tier("smoke run of every chapter", [str(BIN / "nanorecsys"), "run", "smoke"], {}),
            Tier("notebooks under papermill", [*PYTEST, "tests/notebooks", *arguments], {}),
            Tier(
                "notebooks run again (nbval)",
                [*PYTEST, "--nbval-lax", "-x", "-W", "default", "data/runs/smoke", "--ignore-glob=*/.work/*"],
                {"NANORECSYS_OUT": str(nbval)},
            ),
            Tier("the book, in a browser", [*PYTEST, "tests/book", *arguments], {}),
        ],
    )
    print("seconds by tier, some side by side")
    for name, spent in tiers.seconds:
        print(f"  {name:<30}{spent:7.1f}")
    print(f"  {'all':<30}{time.monotonic() - start:7.1f}{f'  FAILED: {tiers.failed}' if tiers.failed else ''}")
    return 1 if tiers.failed else 0


def unit_folders() -> list[str]:
    """The test folders of packages: all but those that need a run of the study."""
    folders = sorted(p for p in (ROOT / "tests").iterdir() if p.is_dir() and any(p.glob("test_*.py")))
    return [f"tests/{p.name}" for p in folders if p.name not in ("notebooks", "book")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
