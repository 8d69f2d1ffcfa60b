"""Cores and memory within a container's limits. 0.1 s."""

import os

import psutil
import pytest

from nanorecsys.study import provenance, runner
from nanorecsys.study.chapters import Estimate
from nanorecsys.system import limits

GIB = 2**30


@pytest.fixture
def container(tmp_path, monkeypatch):
    """A host of 64 GiB and 16 cores, and a function that writes a control group's files."""
    host = type("Memory", (), {"total": 64 * GIB, "available": 60 * GIB})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: host)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(limits, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "OWN", tmp_path / "own")

    def write(group="", own="0::/", **files):
        folder = tmp_path / "cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own").write_text(f"3:cpu:/elsewhere\n{own}\n")
        for name, content in files.items():
            (folder / name.replace("_", ".")).write_text(f"{content}\n")

    return write


def found():
    return limits.cores(), limits.memory_bytes() / GIB, limits.available_bytes() / GIB


def test_a_host_without_control_groups_is_taken_as_it_is(container):
    assert found() == (16, 64, 60)


def test_a_container_has_its_limits(container):
    container(
        cpu_max="250000 100000",
        memory_max=2 * GIB,
        memory_current=GIB,
        memory_stat=f"anon 5\ninactive_file {GIB // 2}",
    )
    assert found() == (2, 2, 1.5)
    assert (provenance.machine().cores, provenance.machine().memory_gib) == (2, 2.0)


def test_half_a_core_is_one(container):
    container(cpu_max="50000 100000")
    assert limits.cores() == 1


def test_limits_above_the_host_or_none_change_nothing(container):
    container(cpu_max="max 100000", memory_max="max", memory_current=GIB)
    assert found() == (16, 64, 60)
    container(cpu_max="9900000 100000", memory_max=999 * GIB, memory_current=GIB)
    assert found() == (16, 64, 60)


def test_the_smallest_limit_of_the_groups_above_counts(container):
    container("slice", memory_max=4 * GIB, memory_current=3 * GIB, cpu_max="400000 100000")
    container("slice/unit", memory_max=8 * GIB, memory_current=GIB, cpu_max="max 100000")
    container("slice/unit", own="0::/slice/unit")
    assert found() == (4, 4, 1)


def test_a_run_is_refused_by_the_limit_of_its_container(container, tmp_path):
    runner.require({"02_training": Estimate(memory_gib=2.5, disk_gib=0)}, tmp_path)
    container(memory_max=2 * GIB, memory_current=0)
    with pytest.raises(runner.ResourceError, match=r"2\.5 GiB of memory, 2\.0 GiB is available"):
        runner.require({"02_training": Estimate(memory_gib=2.5, disk_gib=0)}, tmp_path)
