"""What a service can expect: catalogue size and share of cold requests, from a run's records.

The load test measures the server with two shares of cold requests on the real catalogue, and with
one share on the large one. CPU time lies on a line over the share, since a request is either cached
or computed. What the large catalogue takes more is spent in the computed requests.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from nanorecsys.study.compare import Records

COLD_SHARES = (0.05, 0.3, 1.0)
NEEDED = ("04_ann", "06_loadtest")


def choices(records: Records) -> pd.DataFrame:
    """What is served, what each choice costs in quality and what it saves; a row for each."""
    rows = []
    if "02_training" in records:
        trained = records["02_training"].result
        read = f"the last {trained.events_read} of at most {trained.reads[0].events} events"
        cost = _changes(trained.events_change, trained.dataset)
        rows.append(("history", read, cost, "time of every encode"))
        ranker = "serves" if trained.serves_ranker else "left out: no sure gain on every data set"
        gain = _changes(trained.ranker_change, trained.dataset)
        rows.append(("ranker", ranker, f"with it {gain}", "a stage of every cold request"))
    if "03_export" in records:
        exported = records["03_export"].result
        times = exported.times_torch
        costs = {exported.dataset: exported.variants[exported.chosen].parity.ndcg}
        if exported.int8_change[exported.dataset] == costs[exported.dataset]:
            costs = exported.int8_change  # the chosen variant is the one that both sets measured
        saved = f"{times.middle:.1f}x as fast as the best PyTorch"
        if "06_loadtest" in records and (cpu := records["06_loadtest"].result.times_baseline):
            saved += f", which takes {cpu.middle:.1f}x the CPU time of a whole request"
        rows.append(("encoder", exported.chosen, _changes(costs, exported.dataset), saved))
    if "04_ann" in records:
        ann = records["04_ann"].result
        best = ann.recommended
        cost = _changes({name: own.ndcg for name, own in ann.served.items()}, ann.dataset)
        saved = f"{best.times_flat.middle:.1f}x as fast as exact search of {ann.n_items:,} items"
        rows.append(("index", best.family, cost, saved))
    if "05_scaleup" in records and (remote := records["05_scaleup"].result.remote):
        rows.append(_place(remote, records["05_scaleup"].result.n_items))
    return pd.DataFrame(rows, columns=["part", "choice", "change of NDCG@10", "saves"])


def _place(remote: Any, n_items: int) -> tuple[str, str, str, str]:
    """Up to which catalogue the index stays in the process, and what Milvus would take."""
    held = [limit for limit in remote.limits if limit.items is not None]
    choice = f"in the process; memory sets no limit near {n_items:,} items"
    if held:
        host = f"a host of {held[-1].host_gib:g} GiB, estimated"
        items = int(float(f"{held[-1].items:.2g}"))
        choice = f"in the process up to {items:,} items on {host}"
    hops = [hop for hop in remote.hops if not hop.exact]
    saved = "not known"
    if hops:
        saved = f"{hops[-1].hop_ms:.1f} ms a search of {hops[-1].n:,} items, against Milvus here"
    return "place of the index", choice, "none, equal recall", saved


def _changes(by_set: Mapping[str, Any], first: str) -> str:
    """The relative change on each data set, `first` before the others."""
    return "; ".join(map(_change, _in_order(by_set, first)))


def _in_order(by_set: Mapping[str, Any], first: str) -> list[Any]:
    """The values of each data set, that of `first` before the others; a record sorts by name."""
    return [by_set[name] for name in sorted(by_set, key=lambda name: name != first)]


def _change(change: Any) -> str:
    """A relative change in percent, with its interval, or that no user's item was found."""
    if not change.base:
        return "not known, nothing found"
    relative = change.relative
    return f"{relative.estimate:+.1%} ({relative.low:+.1%} to {relative.high:+.1%})"


def expected(records: Records) -> pd.DataFrame:
    """CPU time and rate by catalogue and share of cold requests.

    The two catalogues are compared where their servers took turns.

    Returns:
        One row per catalogue of the load test and share; empty where it has not run, or ran with
        cold requests alone or none, which gives no line over the share.
    """
    if not set(NEEDED) <= records.keys():
        return pd.DataFrame()
    ann, load = (records[name].result for name in NEEDED)
    scale, cold = load.served_scale, load.cold_share
    if not 0 < cold < 1:
        return pd.DataFrame()
    real_slope = (load.busy_cold.server_cpu_ms - scale.real.cpu_ms.middle) / (1 - cold)
    more_ms = (scale.large.cpu_ms.middle - scale.real.cpu_ms.middle) / cold
    recall = ann.served[ann.dataset].recall.estimate
    sent_ms = load.busy_cold.generator_cpu_ms  # the generator's time, on the same cores
    catalogues = [
        (load.n_items, scale.real, real_slope, ann.recommended.family, recall),
        (scale.index.n, scale.large, real_slope + more_ms, scale.index.family, scale.index.recall),
    ]
    rows = []
    for items, server, slope, family, recall in catalogues:
        usual_ms, per_s = server.cpu_ms.middle, server.busy_per_s
        for share in COLD_SHARES:
            cpu_ms = usual_ms + slope * (share - cold)
            rate = per_s.middle * (usual_ms + sent_ms) / (cpu_ms + sent_ms)
            rate = f"{rate:,.0f}, estimated"
            if share == cold:
                rate = f"{per_s.middle:,.0f} ({per_s.low:,.0f} to {per_s.high:,.0f}), measured"
            elif share == 1 and server is scale.real:
                rate = f"{load.busy_cold.goodput_per_s:,.0f}, measured"
            rows.append(
                {
                    "items": items,
                    "cold": f"{share:.0%}",
                    "requests/s": rate,
                    "CPU ms a request": f"{cpu_ms:.2f}",
                    "index": family,
                    "recall@100": f"{recall:.3f}",
                }
            )
    return pd.DataFrame(rows)


def large_catalogue(records: Records) -> str:
    """How far the synthetic catalogue stands for a real one, in words; empty if not tested."""
    if "05_scaleup" not in records:
        return ""
    found = records["05_scaleup"].result
    judged = {j.generator: j for j in found.judged}.get(found.generator)
    if judged is None:
        return ""
    worst = "; ".join(
        f"{own.worst.estimate:.2f} ({own.worst.low:.2f} to {own.worst.high:.2f})"
        for own in _in_order(judged.by_set, found.dataset)
    )
    return (
        f"The large catalogue is synthetic. In the held-out test its generator, "
        f"{judged.generator}, is {judged.verdict}: recall is off by up to {worst}, "
        f"where {found.bound:g} is allowed."
    )


def cached(records: Records) -> str:
    """How many requests the cache answers in the load test, and the rate of the others alone.

    Empty if the load test has not run.
    """
    if "06_loadtest" not in records:
        return ""
    load = records["06_loadtest"].result
    told = f"The cache has the answers of {1 - load.cold_share:.0%} of these requests."
    if load.all_cold:
        told += f" With new users alone the server keeps {load.all_cold.rate:,.0f} a second."
    return told
