"""A Milvus in this process that can be made to fail, and the real one of `make milvus`."""

import operator
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nanorecsys.scaleup import remote
from nanorecsys.serving.milvus import Milvus
from nanorecsys.system.processes import free_port

SERVER = Path(__file__).parents[1] / "_build" / "milvus" / "env" / "bin" / "milvus-server"
COMPARISONS = {">=": operator.ge, "<": operator.lt}


class FakeMilvus:
    """What `nanorecsys.serving.milvus` uses of pymilvus's client, over exact search.

    Every connection is the same object. `fail` is called before each method with its name.
    """

    def __init__(self) -> None:
        self.collections: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.fail: Callable[[str], None] = lambda method: None
        self.connections = self.closed = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "FakeMilvus":
        """Let every connection be this one."""

        def connect(milvus: Milvus) -> "FakeMilvus":
            self.fail("connect")
            self.connections += 1
            return self

        monkeypatch.setattr(Milvus, "_connect", connect)
        return self

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if name.startswith("_") or not callable(found) or name in ("fail", "install", "close"):
            return found

        def called(*arguments: Any, timeout: float, **options: Any) -> Any:
            about = {"timeout": timeout, "collection": next(iter(arguments), None)}
            self.calls.append((name, options | about))
            self.fail(name)
            return found(*arguments, **options)

        return called

    def close(self) -> None:
        self.closed += 1

    def list_collections(self) -> list[str]:
        return list(self.collections)

    def has_collection(self, name: str) -> bool:
        return name in self.collections

    def create_collection(self, name: str, schema: Any, **options: Any) -> None:
        fields = [{"params": {}} | field.to_dict() for field in schema.fields]
        self.collections[name] = {"fields": fields, "description": schema.description, "rows": []}

    def drop_collection(self, name: str) -> None:
        del self.collections[name]

    def describe_collection(self, name: str) -> dict[str, Any]:
        return self.collections[name]

    def list_indexes(self, name: str) -> list[str]:
        return [key for key in self.collections[name] if key == "index"]

    def create_index(self, name: str, params: Any) -> None:
        [found] = params
        self.collections[name]["index"] = found.to_dict()

    def describe_index(self, name: str, index: str) -> dict[str, Any]:
        rows = len(self.collections[name]["rows"])
        return {"state": "Finished", "total_rows": rows, "pending_index_rows": 0}

    def load_collection(self, name: str) -> None:
        self.collections[name]["index"]

    release_collection = flush = load_collection

    def insert(self, name: str, rows: list[dict[str, Any]]) -> None:
        self.collections[name]["rows"] += rows

    def query(self, name: str, filter: str, **options: Any) -> list[dict[str, int]]:
        return [{"count(*)": len(_matching(self.collections[name]["rows"], filter))}]

    def delete(self, name: str, filter: str) -> None:
        rows = self.collections[name]["rows"]
        gone = {row["item"] for row in _matching(rows, filter)}
        rows[:] = [row for row in rows if row["item"] not in gone]

    def search(
        self, name: str, data: np.ndarray, limit: int, search_params: dict[str, Any]
    ) -> list[Any]:
        rows = self.collections[name]["rows"]
        items = np.array([row["item"] for row in rows])
        scores = data @ np.array([row["vector"] for row in rows]).T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :limit]
        return [_Hits(items[row], own[row]) for own, row in zip(scores, best, strict=True)]


class _Hits(SimpleNamespace):
    def __init__(self, ids: np.ndarray, distances: np.ndarray) -> None:
        super().__init__(ids=ids.tolist(), distances=distances.tolist())

    def __len__(self) -> int:
        return len(self.ids)


def _matching(rows: list[dict[str, Any]], condition: str) -> list[dict[str, Any]]:
    found = re.findall(r"item (>=|<) (\d+)", condition)
    tests = [(COMPARISONS[sign], int(value)) for sign, value in found]
    return [row for row in rows if all(holds(row["item"], value) for holds, value in tests)]


class MilvusServer:
    """The Milvus of `make milvus` on a free port. It can be killed and started again.

    Args:
        data: Folder of its data.
    """

    available = SERVER.exists()

    def __init__(self, data: Path) -> None:
        self.data, self.port = data, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it; it answers a little later."""
        # After a kill it waits for the session of the dead process to end: 30 s by default.
        shorter = "--extra-config", "common.session.ttl=5"
        self.process = remote.start(SERVER, self.data, self.port, *shorter)

    def wait(self) -> None:
        """Wait until it answers."""
        with Milvus(self.uri) as milvus:
            remote.wait(milvus)

    def kill(self) -> None:
        """Kill all its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
