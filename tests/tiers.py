"""Every tier of tests, cheapest first, with the seconds of each; `make test` and `.ci/run` call it.

Arguments go to every pytest of the first tiers: `python tests/tiers.py -k splits`.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
# Two processes with two threads each wait for one another on two cores.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
PYTEST = [sys.executable, "-m", "pytest", "-q"]
TWO = [
    "-n",
    "2",
    "--max-worker-restart",
    "0",
]  # a process that was lost with a test that hung isn't begun again
TWO_AT_ONCE = [*TWO, "--dist", "worksteal"]
ONE_A_FILE = [*TWO, "--dist", "loadfile"]  # the cells of a notebook need one kernel
NBVAL = [
    "--nbval-lax",
    "--nbval-cell-timeout",
    "300",
]  # several times the longest cell of a smoke run
OF_A_RUN = ("tests/notebooks", "tests/book")  # they need the smoke run


def main(arguments: list[str]) -> int:
    """Run the tiers; the first that fails ends it. Returns the exit code."""
    nbval = ROOT / "data" / "runs" / "nbval"
    tiers = [
        ("style", [str(BIN / "ruff"), "check", "."], {}),
        (
            "unit and property tests, two at once",
            [
                *PYTEST,
                *TWO_AT_ONCE,
                "-m",
                "not timed",
                "--doctest-modules",
                "nanorecsys",
                *unit_folders(),
                *arguments,
            ],
            ONE_THREAD,
        ),
        (
            "tests with the machine to themselves",
            [*PYTEST, "-m", "timed", *unit_folders(), *arguments],
            ONE_THREAD,
        ),
        ("smoke run of every chapter", [str(BIN / "nanorecsys"), "run", "smoke"], {}),
        (
            "notebooks under papermill, the book in a browser",
            [*PYTEST, *ONE_A_FILE, *OF_A_RUN, *arguments],
            ONE_THREAD,
        ),
        (
            "notebooks run again (nbval)",
            [
                *PYTEST,
                *ONE_A_FILE,
                *NBVAL,
                "-x",
                "-W",
                "default",
                "data/runs/smoke",
                "--ignore-glob=*/.work/*",
            ],
            ONE_THREAD | {"NANORECSYS_OUT": str(nbval)},
        ),
    ]
    seconds: list[tuple[str, float]] = []
    code = 0
    for name, command, environment in tiers:
        print(f"\n== {name}", flush=True)
        start = time.monotonic()
        code = subprocess.run(command, cwd=ROOT, env=os.environ | environment).returncode
        seconds.append((name, time.monotonic() - start))
        if code and not (arguments and code == 5):  # a selection may leave a tier without tests
            break
        code = 0
    print("\nseconds by tier")
    for name, spent in seconds:
        print(f"  {name:<50}{spent:7.1f}")
    print(
        f"  {'all':<50}{sum(s for _, s in seconds):7.1f}{'  FAILED in the last one' if code else ''}"
    )
    return code


def unit_folders() -> list[str]:
    """The test folders of packages: all but those that need a run of the study."""
    folders = sorted(
        f"tests/{p.name}"
        for p in (ROOT / "tests").iterdir()
        if p.is_dir() and any(p.glob("test_*.py"))
    )
    return [folder for folder in folders if folder not in OF_A_RUN]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
