"""The rungs of the ladder, threads and workers, and the search for the highest rate. 1 s."""

import dataclasses

import pytest

from nanorecsys.loadtest import ladder
from nanorecsys.loadtest.errors import LoadTestError
from nanorecsys.loadtest.ladder import (
    BEST_PYTORCH,
    FINAL,
    INDEX,
    ORIGINAL_ONNX,
    ORIGINAL_PYTORCH,
    RUNGS,
    WHOLE_WINDOW,
    climb,
)
from nanorecsys.study.layout import layout
from nanorecsys.study.protocol import read_protocol

pytestmark = pytest.mark.timed

BY_NAME = {rung.name: rung for rung in RUNGS}
TOLD = ("name", "before", "change", "findings", "without")


def changed(before, after):
    """Names of the settings that differ."""
    names = {field.name for field in dataclasses.fields(before)} - set(TOLD)
    return {name for name in names if getattr(before, name) != getattr(after, name)}


def argument(rung, served, name):
    arguments = rung.arguments(served)
    return arguments[arguments.index(name) + 1]


@pytest.mark.parametrize("after", RUNGS[4:], ids=lambda rung: rung.name)
def test_each_later_rung_makes_one_change_to_the_rung_before_it(after):
    assert after.before == RUNGS[RUNGS.index(after) - 1].name
    settings = changed(BY_NAME[after.before], after)
    assert settings == {"threads", "max_batch", "is_patient"} or len(settings) == 1


def test_the_ladder_has_at_most_nine_rungs_and_each_names_an_earlier_one():
    assert len(RUNGS) == len(BY_NAME) <= 9
    assert RUNGS[:3] == (ORIGINAL_PYTORCH, ORIGINAL_ONNX, BEST_PYTORCH)
    for place, rung in enumerate(RUNGS[1:], start=1):
        assert rung.before in [earlier.name for earlier in RUNGS[:place]]


def test_a_rung_that_changes_answers_names_what_measures_its_quality():
    known = {finding.id for finding in read_protocol(layout()).findings}
    named = {rung.name: (*rung.findings, *rung.without) for rung in (*RUNGS, WHOLE_WINDOW)}
    silent = [name for name, findings in named.items() if not findings]
    assert silent == [ORIGINAL_PYTORCH.name, "thread and batches", FINAL.name]
    for rung in (*RUNGS, WHOLE_WINDOW):
        assert rung == ORIGINAL_ONNX or known.issuperset(named[rung.name])
    changes_model = {"bundle", "engine", "whole_window"}
    for rung in RUNGS[1:]:
        assert bool(named[rung.name]) == bool(changed(BY_NAME[rung.before], rung) & changes_model)
    assert WHOLE_WINDOW.without == ladder.LAST_EVENTS.findings  # it gives back what that rung took
    assert BEST_PYTORCH.without == RUNGS[3].without == ("training.ranker",)


def test_the_grid_has_the_final_server_with_each_number_of_workers_and_threads():
    cells = ladder.grid([0, 1, 2])
    assert [(rung.workers, rung.threads) for rung in cells] == [
        *((1, 0), (1, 1), (1, 2)),
        *((2, 0), (2, 1), (2, 2)),
    ]
    assert (cells[1], cells[4]) == (INDEX, FINAL)  # measured once, as rungs
    for rung in cells:
        assert changed(rung, FINAL) <= {"workers", "threads"}
    assert len({rung.name for rung in cells}) == 6


def test_the_same_model_is_the_final_server_with_the_whole_window():
    assert changed(WHOLE_WINDOW, FINAL) == {"whole_window"}


def test_the_originals_servers_differ_in_engine_thread_and_workers():
    assert ORIGINAL_ONNX.before == ORIGINAL_PYTORCH.name
    assert changed(ORIGINAL_PYTORCH, ORIGINAL_ONNX) == {"engine", "threads", "workers"}
    assert ORIGINAL_PYTORCH.whole_window


def test_only_the_originals_servers_in_kind_pad(served):
    padding = [rung for rung in RUNGS if "--pad" in rung.arguments(served)]
    assert padding == [ORIGINAL_PYTORCH, ORIGINAL_ONNX]


def test_the_best_pytorch_server_differs_from_the_final_one_in_its_engine_and_patience(served):
    assert changed(BEST_PYTORCH, FINAL) == {"engine", "is_patient"}
    assert [rung for rung in RUNGS if "--compile" in rung.arguments(served)] == [BEST_PYTORCH]


def test_the_whole_window_is_read_up_to_the_rung_that_reads_fewer_events(served):
    read = {rung.name: argument(rung, served, "--read-events") for rung in RUNGS}
    whole = [name for name, events in read.items() if events == served.served.window]
    assert whole == [ORIGINAL_PYTORCH.name, ORIGINAL_ONNX.name, "ONNX, no padding", "int8 encoder"]
    assert set(read.values()) == {served.served.window, 0}  # 0: as many as the bundle says


def test_the_caches_together_hold_at_most_half_of_the_users(served):
    for rung in RUNGS:
        size = argument(rung, served, "--cache-size")
        assert 0 < 2 * size * rung.workers <= len(served.served.user_ids)


def test_rungs_are_chosen_by_number_in_order():
    assert ladder.choose([9, 3]) == [BEST_PYTORCH, FINAL]
    assert ladder.choose([]) == list(RUNGS)
    with pytest.raises(LoadTestError, match="no rung 10"):
        ladder.choose([10])


@pytest.mark.parametrize("first", [10, 100, 1000])
@pytest.mark.parametrize("capacity", [120, 119, 63])
def test_the_search_brackets_the_highest_rate_within_its_precision(first, capacity):
    tried = {}

    def holds(rate):
        tried[rate] = rate <= capacity
        return tried[rate]

    found = climb(holds, first, precision=0.05)
    assert found == max(rate for rate, held in tried.items() if held)
    assert min(rate for rate, held in tried.items() if not held) <= 1.05 * found


def test_a_good_guess_needs_few_tries():
    tried = []
    climb(lambda rate: not tried.append(rate) and rate <= 120, 115, precision=0.05)
    assert len(tried) <= 4


def test_the_search_finds_nothing_where_nothing_holds():
    assert climb(lambda rate: False, 100, precision=0.05) is None
