"""Every loop is timed, and rates are compared within a repeat."""

import pandas as pd
import pytest
import torch

from nanorecsys.data import leave_one_out
from nanorecsys.evaluation import make_task
from nanorecsys.training.throughput import measure, summarise
from tests.training.sequences import SHORT, SMALL, titles, walks

PADDED_FP32, PACKED_FP32 = "padded, fp32", "packed, fp32"
PADDED_BF16, PACKED_BF16 = "padded, bf16", "packed, bf16"


@pytest.mark.parametrize("native", [True, False])
def test_every_loop_is_timed_in_every_repeat_and_padding_is_no_token(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    events = walks(n_users=64, length=7)  # 5 known events each: 5 batches of 8 full rows
    task = make_task(events, leave_one_out(events), "validation")
    rows = measure(task, titles(), SMALL, SHORT, repeats=2)
    # Three steps of 8 rows and 8 places: histories of 5 events have 4 targets in the padded loop.
    expected = {PADDED_FP32: 3 * 8 * 4, PACKED_FP32: 3 * 8 * 8}
    if native:
        expected |= {PADDED_BF16: 3 * 8 * 4, PACKED_BF16: 3 * 8 * 8}
    assert rows["loop"].tolist() == 2 * list(expected)
    assert rows["repeat"].tolist() == [1] * len(expected) + [2] * len(expected)
    assert rows["tokens"].tolist() == 2 * list(expected.values())


def test_rates_are_compared_within_a_repeat_and_a_precision():
    seconds = {
        PADDED_FP32: [1.0, 10.0, 1.0],  # the second repeat on a machine that was busy
        PACKED_FP32: [0.5, 2.0, 0.25],
        PADDED_BF16: [0.5, 5.0, 0.5],
        PACKED_BF16: [0.1, 1.0, 0.1],
    }
    table = summarise(
        pd.DataFrame(
            {"loop": loop, "repeat": repeat, "tokens": 10, "seconds": seconds[loop][repeat - 1]}
            for repeat in (1, 2, 3)
            for loop in seconds
        )
    )
    assert table.index.tolist() == list(seconds)
    assert table["times_padded"].tolist() == pytest.approx([1, 4, 1, 5])
    fast = table.loc[PACKED_FP32]
    assert (fast["tokens_per_s"], fast["lowest"], fast["highest"]) == pytest.approx((20, 5, 40))


def test_both_loops_of_a_precision_differ_in_rows_alone(monkeypatch):
    """They have torch's fused AdamW, and the products of either in the precision of its name."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    fused, dtypes = [], []
    adamw, cross_entropy = torch.optim.AdamW, torch.nn.functional.cross_entropy

    def optimizer(*arguments, **named):
        fused.append(named.get("fused"))
        return adamw(*arguments, **named)

    def loss(logits, *arguments, **named):
        dtypes.append(logits.dtype)
        return cross_entropy(logits, *arguments, **named)

    monkeypatch.setattr(torch.optim, "AdamW", optimizer)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", loss)
    events = walks(n_users=64, length=7)
    task = make_task(events, leave_one_out(events), "validation")
    measure(task, titles(), SMALL, SHORT, repeats=1)
    assert fused == [True] * 4
    assert {torch.float32, torch.bfloat16} == set(dtypes)
