"""The comparison of the chapter's order with wrk's. 1 s."""

from benchmarks.wrk.order import compare, contradictions
from nanorecsys.loadtest.result import MeasuredServer, Round
from nanorecsys.study.spread import Spread


def between(low, high):
    return Spread(middle=(low + high) / 2, low=low, high=high)


def server(name, *rates):
    told = {"before": "", "change": "", "findings": (), "workers": 1, "threads": 1}
    rounds = [
        Round(cpu_ms=1.0, busy_per_s=2 * rate, highest_per_s=rate, limit="") for rate in rates
    ]
    return MeasuredServer(name=name, rounds=rounds, **told)


RATES = {"one": between(90, 110), "two": between(190, 210), "near two": between(195, 220)}


def test_the_same_order_has_no_contradiction_and_overlapping_ranges_are_none():
    assert contradictions(RATES, {name: between(r.low, r.high) for name, r in RATES.items()}) == []
    swapped = RATES | {"two": between(300, 310), "near two": between(100, 120)}
    assert contradictions(RATES, swapped) == []  # the record does not tell these two apart


def test_an_opposite_order_beyond_both_ranges_is_named():
    found = contradictions(RATES, RATES | {"one": between(400, 500)})
    assert found == [("two", "one"), ("near two", "one")]


def test_both_rates_are_printed_and_a_contradiction_is_the_exit_code(capsys):
    inside = {"one": server("one", 100.0, 110.0), "two": server("two", 200.0)}
    assert compare(inside, {"one": between(150, 160), "two": between(300, 310)}) == 0
    assert "the order agrees" in capsys.readouterr().out
    assert compare(inside, {"one": between(350, 360), "two": between(300, 310)}) == 1
    printed = capsys.readouterr().out
    assert "the record has two before one, wrk the other way round" in printed
    assert "105" in printed
    assert "355 [350-360]" in printed
