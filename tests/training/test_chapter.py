"""The findings of the chapter are read from its record, and only at the study's size."""

import msgspec
import pytest

from nanorecsys.data import DEFAULT_DATASET, SECOND_DATASET
from nanorecsys.evaluation import Change
from nanorecsys.study.spread import Interval
from nanorecsys.training.chapter import FINDINGS
from nanorecsys.training.result import (
    LAST_TEN,
    LEAVE_ONE_OUT,
    WITH_HISTORY,
    Margin,
    Read,
    TrainingResult,
)

SETS = (DEFAULT_DATASET, SECOND_DATASET)
TASKS = (LEAVE_ONE_OUT, LAST_TEN, WITH_HISTORY)
CHANGE = Change(base=0.5, change=-0.25, low=-0.5, high=0.25)


def read(events):
    return Read(events=events, mean=events, ndcg=CHANGE, ndcg_100=CHANGE)


def result(sets=SETS, tasks=TASKS, study_shape=True, events_read=50):
    margins = {
        name: {
            task: Margin(against="Markov", ndcg=Interval(0.1 * i + j, -1.0, 1.0))
            for i, task in enumerate(tasks)
        }
        for j, name in enumerate(sets)
    }
    return TrainingResult(
        dataset=sets[0],
        is_study_shape=study_shape,
        content_chosen=True,
        items_by={},
        layer_choices=[],
        layers=1,
        epochs=1,
        reads=[read(200), read(50)],
        events_read=events_read,
        ranker_validation=dict.fromkeys(sets, CHANGE),
        serves_ranker=False,
        quality={name: {} for name in sets},
        margin=margins,
        events_change=dict.fromkeys(sets, CHANGE),
        ranker_change=dict.fromkeys(sets, CHANGE),
        tie_changed_share=0.0,
        ablation={},
        throughput={},
    )


@pytest.mark.parametrize(
    ("name", "place"), [("leave_one_out", 0), ("last_ten", 1), ("temporal", 2)]
)
def test_a_margin_is_read_for_each_data_set_of_its_task(name, place):
    found = FINDINGS[name](result())
    assert list(found) == list(SETS)
    assert [found[s].estimate for s in SETS] == pytest.approx([0.1 * place, 0.1 * place + 1])


def test_reading_fewer_events_is_a_relative_change():
    found = FINDINGS["events_read"](result())
    assert found == dict.fromkeys(SETS, Interval(-0.5, -1.0, 0.5))


def test_the_ranker_is_a_difference():
    assert FINDINGS["ranker"](result()) == dict.fromkeys(SETS, Interval(-0.25, -0.5, 0.25))


def test_nothing_is_read_at_another_size():
    for other in (
        result(study_shape=False),
        result(sets=(DEFAULT_DATASET, "another")),
        result(sets=SETS[:1]),
        result(sets=SETS[::-1]),
    ):
        assert [read(other) for read in FINDINGS.values()] == [None] * 5
    few = result(tasks=[LEAVE_ONE_OUT], events_read=200)
    measured = [name for name, read in FINDINGS.items() if read(few)]
    assert measured == ["leave_one_out", "ranker"]


def test_a_record_survives_its_file():
    found = result()
    assert msgspec.json.decode(msgspec.json.encode(found), type=TrainingResult) == found
