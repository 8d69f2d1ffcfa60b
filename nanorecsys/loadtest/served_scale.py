"""The final server with the large catalogue of chapter 05, beside the real one.

Items that a generator made have no title and no user. Histories stay those of real users, and the
real items keep their numbers, so the encoder serves unchanged. This measures cost and no quality.

    found = served_scale.add_bundle(run, bundles)
    servers = measure(bench, [ladder.FINAL, served_scale.LARGE], Search(), rounds=3)
    costs = [served_scale.operate(bench, rung) for rung in servers]
"""

import dataclasses
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nanorecsys.loadtest.bench import CONFIRM, SERVER, Bench, LoadRun
from nanorecsys.loadtest.bundles import Bundles
from nanorecsys.loadtest.ladder import FINAL, Rung
from nanorecsys.loadtest.result import Operated
from nanorecsys.loadtest.server_process import ServerProcess
from nanorecsys.loadtest.summary import VALID
from nanorecsys.scaleup import write_catalogue
from nanorecsys.scaleup.result import ScaleupResult
from nanorecsys.serving.bundle import SecondChoice, build_bundle
from nanorecsys.serving.retrieval import FaissIndex, load_index
from nanorecsys.study.records import read_record

SCALE = "scale"  # name of the bundle
LARGE = FINAL.then("large catalogue", "the catalogue of chapter 05 and its index", bundle=SCALE)
SECOND = SecondChoice("SQ4")  # small; it serves only where the index's library is missing


def add_bundle(run: Path, bundles: Bundles) -> ScaleupResult:
    """Build a bundle of the served models with the large catalogue, and add its folder.

    Args:
        run: Folder of a run with chapter 05.
        bundles: Bundles of the load test; their users are served.

    Raises:
        RecordError: Chapter 05 has not run there.
    """
    chapter = run / "05_scaleup"
    record = read_record(chapter, ScaleupResult)
    found, served = record.result, bundles.served
    folder = bundles.folders[FINAL.bundle].with_name(SCALE)
    file, n, real = folder.with_name(f"{SCALE}.npy"), found.n_items, len(served.item_vectors)
    index = load_index(chapter / record.files["best index"])
    parts = dataclasses.replace(
        served,
        ranker=None,  # it knows the real items alone
        item_vectors=write_catalogue(file, served.item_vectors, n, found.generator, found.seed),
        known_items=real,
        items=with_untitled(served.items, n),
        popularity=np.pad(served.popularity, (0, n - real)),
        index_factory=found.served.factory,
        index_search=found.served.search,
        index=index.index if isinstance(index, FaissIndex) else index,
        second=SECOND,
    )
    build_bundle(folder, parts)
    file.unlink()
    bundles.folders[SCALE] = folder
    return found


def with_untitled(items: pd.DataFrame, n: int) -> pd.DataFrame:
    """Add items without a title up to n, with ids that no other item has."""
    added = pd.DataFrame({"item": np.arange(len(items), n), "title": ""})
    first = 1 + pd.to_numeric(items["item_id"], errors="coerce").max()
    ids = (0 if np.isnan(first) else int(first)) + np.arange(len(added))
    added["item_id"] = pd.Series(ids).astype(items["item_id"].dtype)
    added["genres"] = [[]] * len(added)
    return pd.concat([items, added], ignore_index=True)


def operate(bench: Bench, rung: Rung) -> Operated:
    """Start a server and let every worker open its bundle again, without load."""
    folder = bench.folder / f"operated-{rung.name.replace(' ', '-')}"
    arguments = [*rung.arguments(bench.bundles), "--events", folder / "events.sqlite"]
    began = time.monotonic()
    with ServerProcess(arguments, log=folder / "server.log", command=SERVER) as process:
        ready = time.monotonic()
        memory = [process.rss_mib()]
        process.signal(signal.SIGHUP)
        while process.printed().count("takes over from") < rung.workers and process.pids():
            memory.append(process.rss_mib())
            time.sleep(0.05)
        return Operated(
            start_s=ready - began,
            reload_s=time.monotonic() - ready,
            memory_mib=memory[0],
            reload_mib=max(memory),
        )


def p99_ms(runs: Sequence[LoadRun], rung: Rung) -> list[float]:
    """List the 99th percentiles of the runs that confirmed the highest rates of a server."""
    rows = [run.row for run in runs if (run.row.server, run.row.scenario) == (rung.name, CONFIRM)]
    return [row.p99_ms for row in rows if row.verdict == VALID and row.p99_ms is not None]
