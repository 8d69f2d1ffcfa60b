"""The same search in this process and in a Milvus beside it, by one client and by several.

program = milvus_program(root)
points, requests = compare(bench, program, served, requests=10_000)

Each index is searched from a separate process, whose clients are threads. Each collection has a
separate Milvus, so that memory is that of one index.
"""

import itertools
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import yaml

from nanorecsys.ann.analysis import P99_TIMINGS
from nanorecsys.ann.bench import call_once, fingerprint, in_child, percentiles
from nanorecsys.ann.errors import CrashError, Failure
from nanorecsys.ann.exact import Exact
from nanorecsys.ann.specs import BASELINE
from nanorecsys.evaluation import mean_interval
from nanorecsys.scaleup.bench import GIB, CatalogueBench
from nanorecsys.scaleup.catalogue import CatalogueFile
from nanorecsys.scaleup.search import SearchOptions, fewest, open_flat, surely
from nanorecsys.serving.errors import RetrievalError
from nanorecsys.serving.milvus import Milvus, MilvusIndex, load_vectors, milvus_choice
from nanorecsys.serving.retrieval import Index, Retriever, load_index, parse_setting
from nanorecsys.system.processes import end_with_parent, free_port

PROGRAM = Path("_build", "milvus", "env", "bin", "milvus-server")
HERE, MILVUS = "in process", "Milvus"
CLIENTS = (1, 4, 16)  # clients that search at once
WARM_UP = 5  # requests of each client
ROUNDS = 3  # parts of the requests of a single client, for the range of their P50
LONGEST_S = 20.0  # longest time of the requests of a number of clients
MOST_ITEMS = 300_000  # largest catalogue; Milvus took 22 minutes to build its index of a million
APART = 2.0  # least ratio of two sizes that are compared
WIDER = (1, 2, 4, 8)  # multiples of the nearest search setting
CALL_S = 600.0  # longest time of a call, such as the build of an index
PAUSE_S = 0.2  # pause between tries to reach a Milvus that starts
START_S = 60.0  # longest time in which Milvus starts; six are usual


def milvus_program(root: Path) -> Path | None:
    """The Milvus that `make milvus` installs below the repository's root; None without it.

    The variable NANORECSYS_MILVUS names another program; `none` leaves it out.
    """
    program = Path(os.environ.get("NANORECSYS_MILVUS", root / PROGRAM))
    return program if program.exists() and find_spec("pymilvus") else None


def sizes_apart(sizes: Sequence[int]) -> list[int]:
    """Return the first size, and those up to `MOST_ITEMS` that are `APART` from the one before.

    >>> sizes_apart([7_000, 8_000]), sizes_apart([27_278, 300_000, 1_000_000])
    ([7000], [27278, 300000])
    """
    kept = list(sizes[:1])
    kept += [n for last, n in itertools.pairwise(sizes) if APART * last <= n <= MOST_ITEMS]
    return kept


def start(program: Path, folder: Path, port: int, *options: str) -> subprocess.Popen:
    """Start a Milvus, which answers some seconds later and ends with this process.

    Args:
        program: Milvus's program.
        folder: Folder of its data, which may be there; its log lies beside it.
        port: Port to answer at.
        options: Further options of the program.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The etcd inside would take the same two ports in every Milvus of a machine.
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    etcd = {
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
    }
    settings = folder.with_name("etcd.yaml")
    settings.write_text(yaml.safe_dump(etcd))
    command = [str(program), "--data", str(folder), "--proxy-port", str(port), *options]
    with folder.with_name("milvus.log").open("ab") as log:
        return subprocess.Popen(
            end_with_parent(command, signal.SIGINT),  # as Ctrl+C: it ends its own process too
            env=os.environ | {"ETCD_CONFIG_PATH": str(settings)},
            start_new_session=True,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


@contextmanager
def running(program: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """Start an empty Milvus on a free port with its data in a folder, and stop it at the end.

    Returns:
        Its address, which answers some seconds later, and the id of its process.
    """
    shutil.rmtree(folder, ignore_errors=True)
    port = free_port()
    process = start(program, folder, port)
    try:
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its data is not read again
        process.wait()


def closed_loop(
    index: Retriever, queries: np.ndarray, k: int, clients: int, requests: int
) -> pd.DataFrame:
    """Send single queries by several clients, each of which waits for its answer.

    Args:
        index: Index that threads may share.
        queries: float32 (q, d), asked in turn.
        k: Neighbours per query.
        clients: Number of threads.
        requests: Number of requests, fewer after `LONGEST_S`.

    Returns:
        Columns query, start_ns, ns and clients, in the order of their start.
    """
    clock = time.perf_counter_ns
    end = clock() + 1e9 * LONGEST_S
    rows: list[tuple[int, int, int]] = []

    def client(first: int) -> None:
        for number in range(first, requests, clients):
            query, start = number % len(queries), clock()
            if start > end:
                break
            index.search(queries[query : query + 1], k)
            rows.append((query, start, clock() - start))

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))  # raises what a client raised
    frame = pd.DataFrame(rows, columns=["query", "start_ns", "ns"])
    return frame.sort_values("start_ns").assign(clients=clients)


@dataclass(frozen=True, eq=False)
class Task:
    """What every index of a catalogue is asked.

    Args:
        queries: float32 (q, d), the first of which choose a setting.
        exact: Their exact neighbours.
        options: How a setting is chosen.
        requests: Number of requests of each number of clients.
    """

    queries: np.ndarray
    exact: Exact
    options: SearchOptions
    requests: int

    def passes(self, index: Retriever) -> bool:
        """Whether the users who choose surely have the floor of recall."""
        chosen = self.queries[: self.options.choosing]
        found = index.search(chosen, self.options.k)[1]
        return surely(self.exact.recall(found), self.options.floor)

    def measure(self, index: Retriever) -> tuple[dict[str, Any], pd.DataFrame]:
        """Recall of the other users with its interval, and the requests of `closed_loop`."""
        k, most = self.options.k, max(CLIENTS)
        recall = self.exact.recall(index.search(self.queries, k)[1])
        row = mean_interval(recall[self.options.choosing :]).columns("recall")
        closed_loop(index, self.queries, k, most, WARM_UP * most)
        loops = [closed_loop(index, self.queries, k, own, self.requests) for own in CLIENTS]
        return row, pd.concat(loops, ignore_index=True)


def search_here(
    task: Task, load: Callable[..., Index], argument: Any, search: str
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Search an index in this process, which does nothing else; see `search_milvus`."""
    index = load(argument)
    index.set(search)
    row, rows = task.measure(index)
    return row | {"search": search, "memory_gib": _memory_gib(os.getpid())}, rows


def search_milvus(
    task: Task, engine: tuple[str, int], catalogue: CatalogueFile, kind: str, search: str
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Load a catalogue into a Milvus, find the setting that just keeps the floor, and search.

    Args:
        task: What to ask.
        engine: Address and process of a Milvus, see `running`.
        catalogue: Vectors.
        kind: Type of index with its parameters, such as IVF_SQ8:nlist=128.
        search: Search setting to begin with, such as nprobe=32.

    Returns:
        Recall, setting, seconds to insert and to build, and memory of Milvus's processes; and the
        requests of `closed_loop`.

    Raises:
        RetrievalError: Milvus does not start, or fails.
    """
    vectors = np.load(catalogue.path, mmap_mode="r")[: catalogue.n]
    with Milvus(engine[0], CALL_S, pool=max(CLIENTS)) as milvus:
        wait(milvus)
        loaded = load_vectors(milvus, "items", vectors, kind, search)
        index = MilvusIndex(milvus, "items", vectors.shape)

        def passes(setting: str) -> bool:
            index.set(setting)
            return task.passes(index)

        tried = wider_settings(kind, search)
        search = next((fewest(setting, passes) for setting in tried if passes(setting)), tried[-1])
        index.set(search)
        row, rows = task.measure(index)
    costs = {"insert_s": loaded.insert_s, "build_s": loaded.build_s}
    return row | costs | {"search": search, "memory_gib": _memory_gib(engine[1])}, rows


def wait(milvus: Milvus) -> None:
    """Wait until a Milvus that starts answers.

    Raises:
        RetrievalError: It does not answer within `START_S`.
    """
    end = time.monotonic() + START_S
    while True:
        try:
            milvus.call("list_collections", timeout_s=5, retries=0)
            return
        except RetrievalError:
            if time.monotonic() > end:
                raise
            time.sleep(PAUSE_S)


def _memory_gib(pid: int) -> float:
    """Resident memory of a process and of those that it started."""
    own = psutil.Process(pid)
    return sum(part.memory_info().rss for part in [own, *own.children(recursive=True)]) / GIB


def wider_settings(kind: str, search: str) -> list[str]:
    """Return a search setting of Milvus and wider ones, which probe at most all lists.

    >>> wider_settings("IVF_SQ8:nlist=64", "nprobe=20")
    ['nprobe=20', 'nprobe=40', 'nprobe=64']
    """
    lists = parse_setting(kind.partition(":")[2]).get("nlist", 0)
    found = []
    for factor in WIDER:
        values = {name: factor * value for name, value in parse_setting(search).items()}
        if "nprobe" in values:
            values["nprobe"] = min(values["nprobe"], lists)
        found.append(",".join(f"{name}={value}" for name, value in values.items()))
    return list(dict.fromkeys(found))


def summary(rows: pd.DataFrame) -> dict[str, Any]:
    """Derive P50 and P99 of one client, and the rate of each number, from `closed_loop`'s rows.

    Returns:
        p50_ms with its range over rounds, p99_ms (NaN below `P99_TIMINGS` requests), and
        per_s_1, per_s_4 and per_s_16.
    """
    alone = rows[rows["clients"] == 1]
    number = ROUNDS * np.arange(len(alone)) // len(alone)
    found = percentiles(alone.assign(round=number), "clients").loc[1].to_dict()
    enough = len(alone) >= P99_TIMINGS
    found["p99_ms"] = float(alone["ns"].quantile(0.99)) / 1e6 if enough else math.nan
    for clients, own in rows.groupby("clients"):
        taken = (own["start_ns"] + own["ns"]).max() - own["start_ns"].min()
        found[f"per_s_{clients}"] = 1e9 * len(own) / taken
    return found


def hops(points: pd.DataFrame) -> pd.DataFrame:
    """Compute what a search in Milvus takes beyond that in process, at nearly equal recall.

    Args:
        points: Rows of `compare`.

    Returns:
        One row per number of items and kind of search: n, exact, here_recall, there_recall,
        here_ms and there_ms (P50), and hop_ms, their difference.
    """
    own = points.rename(columns={"p50_ms": "ms"}).set_index(["n", "exact"])
    here = own.loc[own["place"] == HERE, ["recall", "ms"]].add_prefix("here_")
    there = own.loc[own["place"] == MILVUS, ["recall", "ms"]].add_prefix("there_")
    found = here.join(there, how="inner").reset_index()
    return found.assign(hop_ms=found["there_ms"] - found["here_ms"])


def compare(
    bench: CatalogueBench, program: Path, served: dict[str, Any], requests: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Search a measured index and exact search of the same items, in process and in Milvus.

    A Milvus that fails is recorded among the bench's failures, and has no row.

    Args:
        bench: Bench that has measured the index.
        program: Milvus's program.
        served: What `CatalogueBench.measure` returned.
        requests: Number of requests of each number of clients.

    Returns:
        One row per index, the fields of `result.RemotePoint`. And the requests, with n, place and
        index.
    """
    n, factory, search = served["n"], served["factory"], served["search"]
    catalogue, folder = CatalogueFile(bench.catalogue, n), bench.folder / "remote"
    task = Task(bench.queries, bench.exact[n], bench.options, requests)
    path = bench.index_path(factory, n)

    def here(load: Callable[..., Index], argument: Any, search: str) -> Any:
        return in_child(search_here, task, load, argument, search, threads=1)

    def there(kind: str, search: str) -> Any:
        with running(program, folder / "milvus" / "data") as engine:
            return in_child(search_milvus, task, engine, catalogue, kind, search, threads=1)

    nearest, setting = milvus_choice(factory, search, n)
    cases: list[tuple[Any, ...]] = [
        (HERE, factory, False, here, load_index, path, search),
        (HERE, BASELINE, True, here, open_flat, catalogue, ""),
        (MILVUS, nearest, False, there, nearest, setting),
        (MILVUS, "FLAT", True, there, "FLAT", ""),
    ]
    found, parts = [], []
    for place, index, is_exact, work, *arguments in cases:
        kept = fingerprint(place, index, search, requests, bench.options, path.parent.name)
        try:
            row, rows = call_once(folder / f"{kept}.rows", work, *arguments)
        except (RetrievalError, CrashError) as error:
            what = f"{index} in {place} at {n:,}"
            bench.failures.append(Failure(what, type(error).__name__, error.message))
            continue
        named = {"n": n, "place": place, "index": index}
        build_s = 0.0 if is_exact else served["build_s"]
        costs = {"insert_s": math.nan, "build_s": build_s, "exact": is_exact}
        found.append(named | costs | row | summary(rows))
        parts.append(rows.assign(**named))
    return pd.DataFrame(found), pd.concat(parts, ignore_index=True)
