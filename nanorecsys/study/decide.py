"""What a service can expect: catalogue size and share of cold requests, from a run's records.

The load test measures the server with two shares of cold requests at one catalogue size. CPU time
between them lies on a line, since a request is either cached or computed. Another catalogue changes
the time of the search in each computed request.
"""

from typing import Any

import pandas as pd

from nanorecsys.study.compare import Records

COLD_SHARES = (0.05, 0.3, 1.0)
NEEDED = ("04_ann", "05_scaleup", "06_loadtest")


def choices(records: Records) -> pd.DataFrame:
    """What is served, what each choice costs in quality and what it saves; a row for each."""
    rows = []
    if "02_training" in records:
        trained = records["02_training"].result
        read = f"the last {trained.events_read} of at most {trained.reads[0].events} events"
        cost = trained.events_change[trained.dataset]
        rows.append(("history", read, _change(cost), "time of every encode"))
        ranker = "serves" if trained.serves_ranker else "left out: no sure gain on every data set"
        gain = trained.ranker_change[trained.dataset]
        rows.append(("ranker", ranker, f"with it {_change(gain)}", "a stage of every cold request"))
    if "03_export" in records:
        exported = records["03_export"].result
        times = exported.times_torch
        cost = exported.variants[exported.chosen].parity.ndcg
        saved = f"{times.middle:.1f}x faster than the best PyTorch"
        rows.append(("encoder", exported.chosen, _change(cost), saved))
    if "04_ann" in records:
        ann = records["04_ann"].result
        best = ann.recommended
        cost = ann.served[ann.dataset].ndcg
        saved = f"{best.times_flat.middle:.1f}x faster than exact search of {ann.n_items:,} items"
        rows.append(("index", best.family, _change(cost), saved))
    if "05_scaleup" in records and (remote := records["05_scaleup"].result.remote):
        rows.append(_place(remote, records["05_scaleup"].result.n_items))
    return pd.DataFrame(rows, columns=["part", "choice", "change of NDCG@10", "saves"])


def _place(remote: Any, n_items: int) -> tuple[str, str, str, str]:
    """Up to which catalogue the index stays in the process, and what Milvus would take."""
    held = [limit for limit in remote.limits if limit.items is not None]
    choice = f"in the process; memory sets no limit near {n_items:,} items"
    if held:
        host = f"a host of {held[-1].host_gib:g} GiB, estimated"
        choice = f"in the process up to {held[-1].items:,} items on {host}"
    hops = [hop for hop in remote.hops if not hop.exact]
    saved = f"{hops[-1].hop_ms:.2f} ms a search, at {hops[-1].n:,} items" if hops else "not known"
    return "place of the index", choice, "none, equal recall", saved


def _change(change: Any) -> str:
    """A relative change in percent, with its interval, or that no user's item was found."""
    if not change.base:
        return "not known, nothing found"
    relative = change.relative
    return f"{relative.estimate:+.1%} ({relative.low:+.1%} to {relative.high:+.1%})"


def expected(records: Records) -> pd.DataFrame:
    """Index, CPU time and rate by catalogue size and share of cold requests.

    Returns:
        One row per size and share; empty where a chapter that it needs has not run.
    """
    if not set(NEEDED) <= records.keys():
        return pd.DataFrame()
    ann, scaleup, load = (records[name].result for name in NEEDED)
    usual_ms, usual_per_s = load.final.cpu_ms.middle, load.final.busy_per_s.middle
    measured = {load.cold_share: usual_per_s, 1.0: load.busy_cold.goodput_per_s}
    slope = (load.busy_cold.server_cpu_ms - usual_ms) / (1 - load.cold_share)
    cores = usual_per_s * usual_ms
    search_ms = ann.recommended.p50_ms.middle  # at most what the load test's server needs
    served = (load.n_items, "as served", ann.recommended.family, search_ms)
    rows = []
    for items, recall, index, p50_ms in [served, *_indexes(ann, scaleup)]:
        for share in COLD_SHARES:
            cpu_ms = usual_ms + slope * (share - load.cold_share)
            cpu_ms += share * (p50_ms - search_ms)
            rate, origin = cores / cpu_ms, "estimated"
            if items == load.n_items and share in measured:
                rate, origin = measured[share], "measured"
            rows.append(
                {
                    "items": items,
                    "cold": f"{share:.0%}",
                    "requests/s": f"{rate:,.0f}, {origin}",
                    "CPU ms a request": f"{cpu_ms:.2f}",
                    "search ms": f"{p50_ms:.2f}",
                    "recall": recall,
                    "index": index,
                }
            )
    return pd.DataFrame(rows)


def _indexes(ann: Any, scaleup: Any) -> list[tuple[int, str, str, float]]:
    """Size, recall, family and P50 in ms of the fastest index that keeps the recall, by size."""
    best = ann.recommended
    recall = f"{best.recall_k.estimate:.3f} of {ann.k}"
    found = [(ann.n_items, recall, best.family, best.p50_ms.middle)]
    enough = [
        row
        for row in scaleup.rows
        if row.generator == scaleup.generator and row.recall_low >= scaleup.recall_floor
    ]
    for n in sorted({row.n for row in enough if row.n > ann.n_items}):
        row = min((r for r in enough if r.n == n), key=lambda r: r.p50_ms.middle)
        found.append((n, f"{row.recall:.3f} of {scaleup.k}", row.family, row.p50_ms.middle))
    return found
