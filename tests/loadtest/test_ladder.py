"""The rungs of the ladder, and the search for the highest rate. 1 s."""

import dataclasses
import itertools

import pytest

from nanorecsys.loadtest import ladder
from nanorecsys.loadtest.errors import LoadTestError
from nanorecsys.loadtest.ladder import BASELINE, FINAL, RUNGS, climb

pytestmark = pytest.mark.timed

# a second worker and a second thread both start from the rung before them
STEPS = [*itertools.pairwise(RUNGS[:-1]), (RUNGS[-3], RUNGS[-1])]


@pytest.mark.parametrize(("before", "after"), STEPS, ids=lambda r: r.name)
def test_each_rung_changes_exactly_one_thing(before, after):
    told = ("name", "change")
    changed = [
        f.name
        for f in dataclasses.fields(before)
        if f.name not in told and getattr(before, f.name) != getattr(after, f.name)
    ]
    assert len(changed) == 1


def test_the_ladder_leads_from_the_baseline_to_the_final_server():
    assert RUNGS[0].engine == "torch"
    assert dataclasses.replace(BASELINE, name="", change="", cache="none") == dataclasses.replace(
        RUNGS[0], name="", change=""
    )
    assert FINAL is RUNGS[-1]
    assert FINAL.engine == "onnx"
    assert FINAL.threads > 1


def test_a_rung_serves_the_next_bundle_where_its_own_was_not_made(served):
    some = dataclasses.replace(
        served, folders={n: f for n, f in served.folders.items() if n == "indexed"}
    )
    assert served.folders["indexed"] in RUNGS[1].arguments(some)
    assert served.folders["every position"] in RUNGS[1].arguments(served)


def test_the_whole_window_is_read_up_to_the_rung_that_reads_fewer_events(served):
    told = [rung.arguments(served) for rung in RUNGS]
    read = [arguments[arguments.index("--read-events") + 1] for arguments in told]
    fewer = [rung.name for rung in RUNGS].index("last events")
    as_many_as_the_bundle_says = 0
    assert read[:fewer] == [served.parts.window] * fewer
    assert set(read[fewer:]) == {as_many_as_the_bundle_says}


def test_rungs_are_chosen_by_name_in_order():
    assert [r.name for r in ladder.choose(["chosen tower", "torch"])] == ["torch", "chosen tower"]
    assert ladder.choose([]) == list(RUNGS)
    with pytest.raises(LoadTestError, match="no rung 'int9'"):
        ladder.choose(["int9"])


@pytest.mark.parametrize("first", [10, 100, 1000])
def test_the_search_finds_the_highest_rate(first):
    tried = []

    def attempt(rate):
        tried.append(rate)
        return rate <= 120

    found = climb(attempt, first, tries=14)
    assert 110 < found <= 120
    assert found in tried


def test_the_search_ends_at_its_precision():
    tried = []

    def holds(rate):
        tried.append(rate)
        return rate <= 120

    found = climb(holds, 100, tries=14, precision=0.1)
    assert 120 / 1.1 < found <= 120
    assert len(tried) == 4


def test_the_search_finds_nothing_where_nothing_holds():
    assert climb(lambda rate: False, 100, tries=5) is None
