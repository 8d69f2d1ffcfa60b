"""Every tier of tests, cheapest first, with the seconds of each; `make test` and `.ci/run` call it.

Arguments go to every pytest of the first tiers: `python tests/tiers.py -k splits`. `--lint` runs
only the checks of style, types and imports, as `make lint` does. `--long` runs only what is too
long for every run: all chapters on four generated data sets, and two at other sizes; ten minutes.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
# Two processes with two threads each would wait for one another on two cores.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
PYTEST = [sys.executable, "-m", "pytest", "-q", "--durations", "30", "--durations-min", "5"]
# A worker that is lost with a hanging test is not restarted.
TWO = ["-n", "2", "--max-worker-restart", "0"]
TWO_AT_ONCE = [*TWO, "--dist", "worksteal"]
ONE_A_FILE = [*TWO, "--dist", "loadfile"]  # the cells of a notebook need one kernel
# The time limit is several times the longest cell of a smoke run.
NBVAL = ["--nbval-lax", "--nbval-cell-timeout", "300", "-x", "-W", "default"]
UNIT = "not timed and not milvus"
ON_MILVUS = ("tests/server/test_milvus.py", "tests/scaleup/test_remote.py")
TWICE = "tests/notebooks/twice.py"
OF_A_RUN = ("tests/notebooks", "tests/book")  # they need the smoke run
LONG = [*PYTEST, "-m", "long", "tests/notebooks"]
LINT = [
    ("style", [str(BIN / "ruff"), "check", "."], {}),
    ("format", [str(BIN / "ruff"), "format", "--check", "."], {}),
    ("types", [str(BIN / "mypy")], {}),
    ("imports", [str(BIN / "lint-imports"), "--no-logo"], {}),
]


def main(arguments: list[str]) -> int:
    """Run the tiers; the first failure ends it. Returns the exit code."""
    if arguments == ["--lint"]:
        return run(LINT, [])
    # The tier with a real Milvus runs the chapter's search in it.
    without = {"NANORECSYS_MILVUS": "none"}
    smoke = [str(BIN / "nanorecsys"), "run", "smoke"]
    smoke_run = ("smoke run of every chapter", smoke, without)
    if arguments == ["--long"]:
        return run([smoke_run, ("chapters on other data and at other sizes", LONG, {})], [])
    doctests = ["--doctest-modules", "nanorecsys", "server"]
    again = ROOT / "data" / "runs" / "nbval"
    nbval = ONE_THREAD | without | {"NANORECSYS_OUT": str(again)}
    return run(
        [
            *LINT,
            (
                "unit and property tests, two at once",
                [*PYTEST, *TWO_AT_ONCE, "-m", UNIT, *doctests, *unit_folders(), *arguments],
                ONE_THREAD,
            ),
            (
                "tests with the machine to themselves",
                [*PYTEST, "-m", "timed", *unit_folders(), *arguments],
                ONE_THREAD,
            ),
            (
                "retrieval on a real Milvus",
                [*PYTEST, "-rs", "-m", "milvus", *ON_MILVUS, *arguments],
                ONE_THREAD,
            ),
            smoke_run,
            (
                "notebooks under papermill, the book in a browser",
                [*PYTEST, *ONE_A_FILE, "-m", "not long", *OF_A_RUN, *arguments],
                ONE_THREAD,
            ),
            ("copies with cells twice", [sys.executable, TWICE, "data/runs/smoke", again], {}),
            (
                "notebooks run again, cells twice in a row (nbval)",
                [*PYTEST, *ONE_A_FILE, *NBVAL, again],
                nbval,
            ),
        ],
        arguments,
    )


def run(tiers: list[tuple[str, list[str], dict[str, str]]], arguments: list[str]) -> int:
    """Run tiers, each a name, a command and variables, and print their seconds."""
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
    outcome = "  FAILED in the last one" if code else ""
    print(f"  {'all':<50}{sum(spent for _, spent in seconds):7.1f}{outcome}")
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
