"""The rungs of the ladder, and the search for the highest rate. 1 s."""

import dataclasses

import pytest

from nanorecsys.loadtest import ladder
from nanorecsys.loadtest.errors import LoadTestError
from nanorecsys.loadtest.ladder import (
    BEST_PYTORCH,
    FINAL,
    ORIGINAL_ONNX,
    ORIGINAL_PYTORCH,
    RUNGS,
    climb,
)

pytestmark = pytest.mark.timed

BY_NAME = {rung.name: rung for rung in RUNGS}
TOLD = ("name", "before", "change")


def changed(before, after):
    """Names of the settings that differ."""
    names = {field.name for field in dataclasses.fields(before)} - set(TOLD)
    return {name for name in names if getattr(before, name) != getattr(after, name)}


def argument(rung, served, name):
    arguments = rung.arguments(served)
    return arguments[arguments.index(name) + 1]


@pytest.mark.parametrize("after", RUNGS[3:], ids=lambda rung: rung.name)
def test_each_of_our_rungs_changes_one_setting_of_the_rung_before_it(after):
    assert after.before == RUNGS[RUNGS.index(after) - 1].name
    assert len(changed(BY_NAME[after.before], after)) == 1


def test_the_ladder_has_at_most_nine_rungs_and_each_names_an_earlier_one():
    assert len(RUNGS) == len(BY_NAME) <= 9
    for place, rung in enumerate(RUNGS[1:], start=1):
        assert rung.before in [earlier.name for earlier in RUNGS[:place]]


def test_the_pool_is_compared_with_the_rung_that_lacks_only_the_pool():
    pool = BY_NAME["pool"]
    before = BY_NAME[pool.before]
    assert changed(before, pool) == {"threads"}
    assert (before.threads, pool.threads) == (0, 1)


def test_the_originals_servers_differ_in_engine_thread_and_workers():
    assert ORIGINAL_ONNX.before == ORIGINAL_PYTORCH.name
    assert changed(ORIGINAL_PYTORCH, ORIGINAL_ONNX) == {"engine", "threads", "workers"}
    assert ORIGINAL_PYTORCH.whole_window


def test_only_the_originals_servers_in_kind_pad(served):
    padding = [rung for rung in RUNGS if "--pad" in rung.arguments(served)]
    assert padding == [ORIGINAL_PYTORCH, ORIGINAL_ONNX]


def test_the_best_pytorch_server_differs_from_the_final_one_in_its_engine_only(served):
    assert changed(BEST_PYTORCH, FINAL) == {"engine"}
    assert [rung for rung in RUNGS if "--compile" in rung.arguments(served)] == [BEST_PYTORCH]


def test_the_whole_window_is_read_up_to_the_rung_that_reads_fewer_events(served):
    read = [argument(rung, served, "--read-events") for rung in RUNGS]
    as_many_as_the_bundle_says = 0
    assert read == [served.served.window] * 3 + [as_many_as_the_bundle_says] * 6


def test_the_caches_together_hold_at_most_half_of_the_users(served):
    for rung in RUNGS:
        size = argument(rung, served, "--cache-size")
        assert 0 < 2 * size * rung.workers <= len(served.served.user_ids)


def test_rungs_are_chosen_by_name_in_order():
    assert [r.name for r in ladder.choose(["second worker", "pool"])] == ["pool", "second worker"]
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
