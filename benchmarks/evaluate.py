"""Seconds and memory that full-catalogue evaluation takes at ML-20M's size.

The benchmark generates random user and item vectors and histories of ML-20M's lengths. It measures
`evaluate` from vectors and histories to ranks and lists of 100 (scores, seen items removed, ranks
with ties, lists), and every metric at every cutoff. The limits are those of the project: 6 minutes
and 2 GiB above the inputs on 2 virtual CPUs.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from nanorecsys.data import Histories
from nanorecsys.evaluation import METRICS, DotProduct, evaluate, value
from nanorecsys.study.provenance import machine, threads
from nanorecsys.system.memory import forget_peak, peak_resident_bytes

LIMIT_S, LIMIT_GIB = 360, 2
CUTOFFS = (10, 20, 50, 100)

EPILOG = """
examples:
  python benchmarks/evaluate.py                  138,493 users x 26,744 items, d 256, about a minute
  python benchmarks/evaluate.py --users 10000    fewer users, to try it; time is linear in users
  python benchmarks/evaluate.py --targets 10     the last ten events of each user, not only one
  OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/evaluate.py     on one core

The matrix product runs on all cores, the ranking after it on one. The peak is the resident memory
above that of the inputs (vectors, histories, targets). The vectors are random, so metrics are near
chance. Exit status 1: a limit was exceeded (the limits are for the default size, and for an
otherwise idle machine).
"""


def histories_of_ml_20m(
    n_users: int, n_items: int, n_targets: int, rng: np.random.Generator
) -> tuple[Histories, Histories]:
    """Targets and seen items with log-normal lengths (median 68, mean 144, at least 20)."""
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
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the generated data (default 0)"
    )
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
        f"{args.users:,} users x {args.items:,} items, d {args.dim}, "
        f"{args.targets} targets per user, {len(seen.items):,} seen items\n"
        f"{machine().processor}, {cores} cores, threads {threads()}, "
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
    forget_peak()
    inputs = peak_resident_bytes()
    start = time.perf_counter()
    result = evaluate(scorer, targets, seen, n_items)
    ranked = time.perf_counter()
    for name in METRICS:
        for k in CUTOFFS:
            value(result, f"{name}@{k}")
    done = time.perf_counter()
    return {
        "evaluate_s": ranked - start,
        "metrics_s": done - ranked,
        "total_s": done - start,
        "users_per_second": len(result.users) / (done - start),
        "peak_above_inputs_gib": (peak_resident_bytes() - inputs) / 2**30,
        "hitrate_at_100": value(result, "hitrate@100"),
    }


if __name__ == "__main__":
    main()
