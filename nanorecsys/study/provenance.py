"""What a number needs beside it to be believed: machine, versions, threads, commit."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import msgspec

from nanorecsys.system import limits
from nanorecsys.system.processor import processor

FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
LIBRARIES = (
    *("numpy", "pandas", "pyarrow", "matplotlib", "torch", "onnxruntime", "faiss-cpu"),
    *("aiohttp", "papermill", "jupyter-book"),
)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The hardware and the interpreter, without host name or paths."""

    cpu_model: str
    cpu_flags: list[str]
    cores: int
    memory_gib: float
    os: str
    python: str

    @property
    def processor(self) -> str:
        """The model with its widest flag, since hosts give many models one name."""
        return f"{self.cpu_model} with {self.cpu_flags[-1]}" if self.cpu_flags else self.cpu_model

    def __str__(self) -> str:
        """In a few words, for captions."""
        return f"{self.processor}, {self.cores} cores, {self.memory_gib:.0f} GiB"


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where a result comes from.

    Args:
        commit: Short hash; `+` after it means that the tree had uncommitted changes.
        definitions_sha256: Hash of the definitions of the chapter's claims, see `Protocol.sha256`.
        peak_rss_mib: Peak resident memory of the largest process.
    """

    commit: str
    definitions_sha256: str
    started_utc: str
    seconds: float
    peak_rss_mib: float
    machine: Machine
    threads: dict[str, str]
    versions: dict[str, str]
    seeds: dict[str, int]


def machine() -> Machine:
    """This machine, with the cores and the memory that this process may use."""
    model, present = processor()
    return Machine(
        cpu_model=model,
        cpu_flags=[flag for flag in FLAGS if flag in present],
        cores=limits.cores(),
        memory_gib=round(limits.memory_bytes() / 2**30, 1),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def versions() -> dict[str, str]:
    """Versions of the installed libraries that numbers depend on."""
    return {name: metadata.version(name) for name in LIBRARIES}


def threads() -> dict[str, str]:
    """The thread settings of the numeric libraries, `all` if the environment sets none."""
    return {name: os.environ.get(name, "all") for name in THREAD_VARIABLES}


def commit(root: Path) -> str:
    """Short hash of the commit, `+` after it for changed files.

    `none` without git, and where `root` is no clone, such as a downloaded archive, even one that
    lies inside another repository.
    """
    try:
        if _git(root, "rev-parse", "--show-prefix"):
            return "none"
        return _git(root, "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+")
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _git(root: Path, *arguments: str) -> str:
    """What git prints about the folder `root`."""
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
