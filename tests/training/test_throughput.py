import pandas as pd
import pytest
import torch

from nanorecsys.data import leave_one_out
from nanorecsys.evaluation import make_task
from nanorecsys.training.throughput import measure, summarise
from tests.training.sequences import SHORT, SMALL, titles, walks


@pytest.mark.parametrize("native", [True, False])
def test_every_loop_is_timed_in_every_repeat_and_padding_is_no_token(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    events = walks(n_users=64, length=7)  # 5 known events each: 5 batches of 8 full rows
    task = make_task(events, leave_one_out(events), "validation")
    rows = measure(task, titles(), SMALL, SHORT, repeats=2)
    # Three steps of 8 rows and 8 places: histories of 5 events have 4 targets in the padded loop.
    expected = {"padded, fp32": 3 * 8 * 4, "packed, fp32": 3 * 8 * 8}
    if native:
        expected["packed, bf16"] = 3 * 8 * 8
    assert rows["loop"].tolist() == 2 * list(expected)
    assert rows["repeat"].tolist() == [1] * len(expected) + [2] * len(expected)
    assert rows["tokens"].tolist() == 2 * list(expected.values())


def test_rates_are_compared_within_a_repeat():
    rows = pd.DataFrame(
        {
            "loop": ["padded, fp32", "packed, bf16"] * 3,
            "repeat": [1, 1, 2, 2, 3, 3],
            "tokens": [10, 10] * 3,
            "seconds": [
                1.0,
                0.5,
                10.0,
                2.0,
                1.0,
                0.25,
            ],  # the second repeat on a machine that was busy
        }
    )
    table = summarise(rows)
    assert table.index.tolist() == ["padded, fp32", "packed, bf16"]
    fast = table.loc["packed, bf16"]
    assert fast["times_padded"] == pytest.approx(4)
    assert (fast["tokens_per_s"], fast["lowest"], fast["highest"]) == pytest.approx((20, 5, 40))
