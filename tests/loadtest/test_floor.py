"""The floor of a new user's request, and the split of what a server takes. 2 s."""

import numpy as np
import pandas as pd
import pytest

from nanorecsys.ann.limits import Bandwidth, Limits
from nanorecsys.loadtest import floor
from nanorecsys.loadtest.bundles import IN_KIND, SERVED
from tests.loadtest.conftest import EVENTS_READ

LIMITS = Limits(bandwidth=[Bandwidth(working_set_mib=64, gb_per_s=10)])


# Three requests in one batch, one alone, and no ranker.
COLD = pd.DataFrame(
    {
        "status": 200,
        "warm_up": False,
        "encode_ms": [5.0, 5.0, 5.0, 3.0],
        "encode_cpu_ms": [1.5, 1.5, 1.5, 0.5],
        "retrieve_ms": [2.0, 2.0, 2.0, 1.0],
        "retrieve_cpu_ms": [0.6, 0.6, 0.6, 0.2],
        "rank_ms": np.nan,
        "rank_cpu_ms": np.nan,
    }
)


def test_a_batch_counts_once_however_many_requests_tell_its_time():
    assert floor.stage_cpu_ms(COLD) == pytest.approx({"encode": 0.5, "retrieve": 0.2})


def test_the_parts_of_a_request_add_up_and_the_floor_is_arithmetic_and_bytes(served, monkeypatch):
    monkeypatch.setattr(floor, "peaks", lambda: {"fp32": 2.0, "int8": 8.0})
    found = floor.find(served.folders[SERVED], LIMITS, COLD, 2.0, 0.1)
    lengths = served.served.histories.lengths
    assert found.length == pytest.approx(np.minimum(lengths, EVENTS_READ).mean())
    assert sum(found.measured_ms.values()) == pytest.approx(2.0)
    assert found.measured_ms["rest"] == pytest.approx(2.0 - 0.5 - 0.2 - 0.1)
    # A hundred vectors of 16 dimensions are read at 10 GB/s.
    assert found.read_mib == pytest.approx(100 * 64 / 2**20)
    assert found.floor_ms["retrieve"] == pytest.approx(100 * 64 / 1e7)
    assert found.floor_ms["http"] == 0.1
    assert found.gmacs == 2.0


@pytest.mark.parametrize("name", [SERVED, IN_KIND])
def test_a_ranker_adds_its_arithmetic_where_it_serves(served, name, monkeypatch):
    rates = {"fp32": 2.0, "int8": 8.0}
    monkeypatch.setattr(floor, "peaks", lambda: rates)
    found = floor.find(served.folders[name], LIMITS, COLD, 2.0, 0.1)
    serves = served.parts[name].ranker is not None
    assert ("rank" in found.floor_ms) is serves
    encoder = rates["int8" if served.parts[name].tower_is_int8 else "fp32"]
    arithmetic = encoder * found.floor_ms["encode"] + 2.0 * found.floor_ms.get("rank", 0.0)
    assert arithmetic == pytest.approx(found.macs / 1e6)
