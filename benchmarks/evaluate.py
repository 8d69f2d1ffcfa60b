"""Seconds and memory that full-catalogue evaluation takes at ML-20M's size.

Random user and item vectors and histories of ML-20M's lengths are generated; what is measured is
`evaluate` from vectors and histories to ranks and lists of 100 (scores, seen items removed, ranks
with ties, lists) and `summary`, every metric at every cutoff. The limits are those of the project:
6 minutes and 2 GiB above the inputs on 2 virtual CPUs.
"""

import argparse
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from nanorecsys.data import Histories
from nanorecsys.evaluation import DotProduct, evaluate, summary, value
from nanorecsys.study.provenance import machine, threads

LIMIT_S, LIMIT_GIB = 360, 2

EPILOG = """
examples:
  python benchmarks/evaluate.py                    ML-20M: 138,493 users x 26,744 items, d 256, about a minute
  python benchmarks/evaluate.py --users 10000      fewer users, to try the benchmark itself; time is linear in them
  python benchmarks/evaluate.py --targets 10       the last ten events of each user instead of the last one
  OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/evaluate.py     on one core

How to read it: the matrix product runs on all cores, the ranking after it on one. The peak is resident memory above
what it was with the inputs (vectors, histories, targets) in place. Metrics should be near chance, for the vectors are
random. Exit status 1: a limit was exceeded (they are for the default size, and for an otherwise idle machine).
"""


class PeakMemory:
    """Largest resident memory above that at entry, in GiB, sampled every 10 ms."""

    def __enter__(self) -> "PeakMemory":
        self._process, self._done = psutil.Process(), threading.Event()
        self._start = self._highest = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._done.wait(0.01):
            self._highest = max(self._highest, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.gib = (self._highest - self._start) / 2**30


def histories_of_ml_20m(
    n_users: int, n_items: int, n_targets: int, rng: np.random.Generator
) -> tuple[Histories, Histories]:
    """Targets and seen items: log-normal lengths (median 68, mean 144, at least 20), Zipf-like popularity."""
    lengths = np.clip(rng.lognormal(np.log(68), 1.2, n_users), 20, n_items / 4).astype(np.int64)
    user = np.repeat(np.arange(n_users), lengths)
    item = (n_items * rng.random(len(user)) ** 3).astype(np.int32)
    # Targets an equal step apart are distinct; events of the same item are taken out of the
    # history.
    first = rng.integers(0, n_items, n_users)
    target = (
        first[:, None] + np.arange(n_targets) * (n_items // n_targets)
    ) % n_items  # (n_users, n_targets)
    step = n_items // n_targets
    offset = (item - first[user]) % n_items
    kept = (offset % step != 0) | (offset // step >= n_targets)
    counts = np.bincount(user[kept], minlength=n_users)
    seen = Histories(np.concatenate([[0], np.cumsum(counts)]), item[kept])
    return Histories(np.arange(n_users + 1) * n_targets, target.astype(np.int32).ravel()), seen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--users", type=int, default=138_493, help="users, all of them evaluated (default 138493)"
    )
    parser.add_argument(
        "--items", type=int, default=26_744, help="size of the catalogue (default 26744)"
    )
    parser.add_argument("--dim", type=int, default=256, help="length of the vectors (default 256)")
    parser.add_argument("--targets", type=int, default=1, help="targets of each user (default 1)")
    parser.add_argument(
        "--repeats", type=int, default=1, help="measured runs, one after another (default 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the generated data (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()

    rng = np.random.default_rng(args.seed)
    scorer = DotProduct(
        rng.standard_normal((args.users, args.dim), np.float32),
        rng.standard_normal((args.items, args.dim), np.float32),
    )
    targets, seen = histories_of_ml_20m(args.users, args.items, args.targets, rng)
    cores = len(psutil.Process().cpu_affinity())
    print(
        f"{args.users:,} users x {args.items:,} items, d {args.dim}, {args.targets} targets a user, "
        f"{len(seen.items):,} seen items\n{machine().processor}, {cores} cores, threads {threads()}, "
        f"load average {psutil.getloadavg()[0]:.1f}"
    )
    runs = [measure(scorer, targets, seen, args.items) for _ in range(args.repeats)]
    for name in runs[0]:
        print(f"{name:<36}" + "".join(f"{run[name]:>10.3f}" for run in runs))
    if args.json:
        args.json.write_text(
            json.dumps({"arguments": vars(args) | {"json": None}, "runs": runs}, indent=2)
        )
    if any(run["total_s"] > LIMIT_S or run["peak_above_inputs_gib"] > LIMIT_GIB for run in runs):
        sys.exit(f"a limit was exceeded: {LIMIT_S} s, {LIMIT_GIB} GiB")


def measure(
    scorer: DotProduct, targets: Histories, seen: Histories, n_items: int
) -> dict[str, float]:
    with PeakMemory() as peak:
        start = time.perf_counter()
        result = evaluate(scorer, targets, seen, n_items)
        ranked = time.perf_counter()
        summary(result)
        done = time.perf_counter()
    return {
        "evaluate_s": ranked - start,
        "summary_s": done - ranked,
        "total_s": done - start,
        "users_a_second": len(result.users) / (done - start),
        "peak_above_inputs_gib": peak.gib,
        "hitrate_at_100": value(result, "hitrate@100"),
    }


if __name__ == "__main__":
    main()
