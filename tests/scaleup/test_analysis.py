"""The chapter's rules and sentences, on made-up rows. Below a second."""

import re
from types import SimpleNamespace

import msgspec
import pytest

from nanorecsys.ann.result import Spread
from nanorecsys.scaleup import analysis, figures
from nanorecsys.scaleup.chapter import CLAIMS, estimate
from nanorecsys.scaleup.curves import Curve
from nanorecsys.scaleup.errors import DiskSpaceError, MemorySpaceError
from nanorecsys.scaleup.result import Gap, Moved, Row
from nanorecsys.scaleup.room import check_room
from nanorecsys.study.chapters import Estimate


def row(
    n=1000, factory="IVF16,SQ8", family="IVF, SQ8", p50=1.0, recall=0.97, size=260.0, **more
) -> Row:
    spread = Spread(middle=p50, low=p50, high=p50)
    values = {
        "generator": "local", "n": n, "factory": factory, "family": family, "search": "nprobe=4", "recall": recall,
        "p50_ms": spread, "p99_ms": Spread(middle=2 * p50, low=p50, high=3 * p50), "queries_per_s": 1000.0,
        "bytes_a_vector": size, "build_s": 0.01 * n, "shared_s": 0.0, "build_peak_gib": 0.5, "search_peak_gib": 0.5,
        "read_mib": 1.0, "floor_ms": 0.1,
    }  # fmt: skip
    return Row(**(values | more))


def test_the_best_index_passes_floor_and_bound():
    flat = row(factory="Flat", family="Flat", p50=9.0, recall=1.0, size=1024.0)
    slow, large, blunt = row(p50=2.0), row(p50=0.1, size=1168.0), row(p50=0.05, recall=0.9)
    assert analysis.best_row([flat, slow, large, blunt], 0.95, 256) is slow
    assert analysis.best_row([flat, blunt, row(recall=0.8)], 0.95, 256) is blunt


def test_laws_are_those_of_the_points():
    rows = [row(n=n, p50=0.001 * n**0.5) for n in (1000, 10_000, 100_000)] + [
        row(n=10, p50=99.0, recall=0.5)
    ]
    law = next(g for g in analysis.growth(rows, 0.95) if g.what == "p50_ms")
    assert (law.power, law.points) == (pytest.approx(0.5), 3)
    assert analysis.at_size([law], "IVF, SQ8", "p50_ms", 1e6) == pytest.approx(1.0)
    assert analysis.growth([row()], 0.95) == []


def test_planning_marks_extrapolation_and_names_where_one_machine_ends():
    rows = [row(n=n, p50=0.001 * n**0.5) for n in (1000, 100_000)]
    lines = analysis.plan(
        analysis.growth(rows, 0.95), rows[-1], [1000, 10**6, 10**9], [1, 10_000], [1000, 100_000]
    )
    assert [p.measured for p in lines] == [True, True, False, False, False, False]
    assert [p.one_machine for p in lines] == [True, True, True, True, False, False]
    assert lines[0].vcpu == 1
    assert lines[3].vcpu == 20  # 10,000 a second of 1 ms, half busy
    assert lines[4].memory_gib == pytest.approx(260e9 / 2**30)


def test_a_graph_stops_where_time_does():
    assert analysis.graph_fits({}, 10**9, 1.0) == (True, 0.0)
    fits, seconds = analysis.graph_fits({1000: 1.0}, 10_000, 20.0)
    assert fits
    assert 10 < seconds < 20
    assert not analysis.graph_fits({1000: 1.0}, 100_000, 20.0)[0]


def test_the_same_setting_elsewhere():
    rows = [row(), row(factory="Flat", search=""), row(factory="HNSW8")]
    (moved,) = analysis.same_setting(rows, {("IVF16,SQ8", "nprobe=4"): 0.5, ("Flat", ""): 1.0})
    assert (moved.factory, moved.promised, moved.found) == ("IVF16,SQ8", 0.97, 0.5)
    assert (moved.generator, moved.n) == ("local", 1000)


def moved(generator: str, found: float, n: int = 1000, factory: str = "IVF16,SQ8") -> Moved:
    return Moved(
        factory=factory, search="nprobe=4", promised=0.95, found=found, generator=generator, n=n
    )


def test_the_sentence_on_promises_names_the_worst_and_the_closest_at_its_size():
    moves = [
        moved("independent", 0.1, n=9000),
        moved("gaussian", 0.99),
        moved("local", 0.94),
        moved("mixture", 0.8),
    ]
    said = analysis.moved_sentence(moves, 1000, "recombined")
    assert re.search(
        r"furthest off is that of mixture .*0\.800 .*closest that of local .*0\.940", said
    )
    assert "independent" not in said
    assert "was tried" in analysis.moved_sentence(moves[:1], 1000, "recombined")


def test_a_generator_that_fails_is_told_where_and_what_the_test_can_tell_apart():
    def off(family, recall, by_subset):
        curve = Curve([1, 2], recall, [1.0, 2.0])
        return Gap(
            family=family,
            largest=recall[0] - 0.5,
            setting=1,
            low=0.0,
            high=0.0,
            by_subset=by_subset,
            work_ratio=None,
            curve=curve,
        )

    def story(noise, by_subset):
        judged = SimpleNamespace(
            generator="near",
            gaps=[off("IVF", [0.45, 0.88], by_subset), off("HNSW", [0.53, 0.9], [0.03])],
            worst=0.05,
            believable=False,
            reason="IVF too far off",
        )
        return analysis._fidelity(
            SimpleNamespace(
                judged=[judged],
                recommended_generator="near",
                real_curves={"IVF": Curve([1, 2], [0.5, 0.9], [1.0, 2.0])},
                real_noise={"IVF": noise},
                subsets=2,
                kept=900,
                bound=0.03,
            )
        )

    told = story(0.02, [-0.03, -0.07])
    assert "0.050 in any of" in told
    assert "far off in IVF at the setting 1 of 1 to 2, and by at most 0.020 at the others" in told
    assert "0.030 in HNSW" in told
    assert "between 0.030 and 0.070" in told
    assert "about what the test itself can tell apart" in told
    assert "could tell a better generator apart" in story(0.01, [-0.05, -0.05])


def test_the_figure_of_promises_has_a_panel_an_index_and_a_line_a_generator():
    moves = [moved("independent", 0.1, n=9000)]
    moves += [
        moved(g, f, factory=x)
        for x in ("IVF16,SQ8", "IVF8,SQ8")
        for g, f in (("gaussian", 0.99), ("local", 0.9))
    ]
    figure = figures.moved(moves, 1000, 0.95, "title")
    assert [a.get_title() for a in figure.axes] == ["IVF16,SQ8", "IVF8,SQ8"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["local", "gaussian"]
    segments = [
        list(line.get_xdata()) for line in figure.axes[0].lines if len(line.get_xdata()) == 2
    ]
    assert segments[1:] == [[0.95, 0.99], [0.95, 0.9]]
    (empty,) = figures.moved(moves[:1], 1000, 0.95, "title").axes
    assert not empty.lines


def test_estimates_grow_with_the_catalogue_and_flat_is_mapped_where_it_must_be():
    parameters = {
        "n_items": 3_000_000,
        "memory_gib": 8.0,
        "indexes_tried": ["a"],
        "curve_indexes": ["b"],
    }
    small = estimate(parameters | {"n_items": 300_000})
    large = estimate(parameters)
    mapped = estimate(parameters | {"memory_gib": 1.0})
    assert small.disk_gib < large.disk_gib
    assert mapped.memory_gib < large.memory_gib <= 14
    assert large.memory_gib > 3_000_000 * 1024 / 2**30


@pytest.mark.parametrize(
    ("needed", "error", "says"),
    [
        (Estimate(memory_gib=1e6, disk_gib=0.0), MemorySpaceError, "1000000.0 GiB of memory"),
        (Estimate(memory_gib=0.0, disk_gib=1e7), DiskSpaceError, "10000000.0 GiB of disk"),
    ],
)
def test_too_little_room_is_found_out_before_the_start(needed, error, says, tmp_path):
    with pytest.raises(error, match=says):
        check_room(needed, tmp_path)
    check_room(Estimate(memory_gib=0.0, disk_gib=0.0), tmp_path)


def test_claims_have_ids_of_their_own_and_headlines_need_the_size():
    assert len({c.id for c in CLAIMS}) == len(CLAIMS)

    class Small(msgspec.Struct):
        n_items: int = 300_000
        d: int = 256
        generator: str = "local"
        recommended_generator: str = "local"

    speed = next(c for c in CLAIMS if c.id == "scaleup.speed")
    assert speed.value(Small()) is None
