"""A check from outside: the servers of a run's load test under wrk, beside the rates of its record.

It builds the bundles of chapter 06 again, starts its servers one after another, and loads each with
wrk in a closed loop. Where the chapter and wrk put two servers in opposite orders, each beyond the
ranges of its rounds, the pair is named, and the exit code is 1.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.wrk.run import HOT, wrk
from nanorecsys.loadtest.bundles import build_bundles
from nanorecsys.loadtest.chapter import Result
from nanorecsys.loadtest.ladder import RUNGS, WHOLE_WINDOW, grid
from nanorecsys.loadtest.result import MeasuredServer
from nanorecsys.loadtest.server_process import ServerProcess
from nanorecsys.study.layout import layout
from nanorecsys.study.records import read_record
from nanorecsys.study.spread import Spread, spread

EPILOG = """
example, from the root of the repository:
  python -m benchmarks.wrk.order full --rounds 3
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("profile", help="run whose load test is checked")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=8, help="length of one load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", action="append", metavar="NAME", help="only this one, or these")
    arguments = parser.parse_args()
    run = layout().run(arguments.profile)
    record = read_record(run / "06_loadtest", Result).result
    inside = {found.name: found for found in (*record.ladder, *record.grid, record.whole_window)}
    if unknown := set(arguments.server or ()) - set(inside):
        parser.error(f"no server {'; '.join(unknown)} among: {'; '.join(inside)}")
    inside = {name: inside[name] for name in arguments.server or inside}
    outside: dict[str, list[float]] = {name: [] for name in inside}
    rungs = [rung for rung in {*RUNGS, *grid([0, 1, 2]), WHOLE_WINDOW} if rung.name in inside]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        ranker = read_record(run / "02_training", dict[str, Any]).result["serves_ranker"]
        bundles = build_bundles(run, folder / "bundles", record.n_users, 0, ranker)
        for number, rung in itertools.product(range(arguments.rounds), rungs):
            events = folder / f"{number}-{rung.name}.sqlite"
            options = [*rung.arguments(bundles), "--events", events]
            with ServerProcess(options, log=folder / "server.log") as server:
                load = arguments.seconds, arguments.connections
                wrk(server.port, 0.0, 1, 3, arguments.connections)  # fills the cache
                found = wrk(server.port, record.cold_share, HOT + 1, *load)
            outside[rung.name].append(found["requests"] / found["seconds"])
            print(
                f"round {number + 1}  {rung.name:28} {outside[rung.name][-1]:8,.0f}/s", flush=True
            )
    return compare(inside, {name: spread(np.array(rates)) for name, rates in outside.items()})


def compare(inside: Mapping[str, MeasuredServer], outside: Mapping[str, Spread]) -> int:
    """Print both rates of each server and every contradiction; 1 if there is one, otherwise 0."""
    print(f"\n{'server':28} {'record: highest':>16} {'kept busy':>10} {'wrk, closed loop':>18}")
    highest = {name: found.highest_per_s for name, found in inside.items() if found.highest_per_s}
    for name, rate in sorted(highest.items(), key=lambda pair: -pair[1].middle):
        shown = f"{outside[name].middle:,.0f} [{outside[name].low:,.0f}-{outside[name].high:,.0f}]"
        print(f"{name:28} {rate.middle:16,.0f} {inside[name].busy_per_s.middle:10,.0f} {shown:>18}")
    pairs = contradictions(highest, outside)
    for faster, slower in pairs:
        print(f"contradiction: the record has {faster} before {slower}, wrk the other way round")
    print("the order agrees" if not pairs else f"{len(pairs)} contradictions")
    return int(bool(pairs))


def contradictions(
    inside: Mapping[str, Spread], outside: Mapping[str, Spread]
) -> Sequence[tuple[str, str]]:
    """Pairs of servers of which each side puts another first, beyond the ranges of the rounds."""
    return [
        (faster, slower)
        for faster, slower in itertools.permutations(inside, 2)
        if inside[faster].low > inside[slower].high and outside[faster].high < outside[slower].low
    ]


if __name__ == "__main__":
    sys.exit(main())
