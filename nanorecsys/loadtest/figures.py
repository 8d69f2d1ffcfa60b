"""The figures of the load test."""

from collections.abc import Sequence

import matplotlib.ticker as ticker
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanorecsys.loadtest.result import (
    NO_CORE,
    Band,
    LoadRow,
    Original,
    Percentiles,
    Predicted,
    Rung,
)
from nanorecsys.loadtest.summary import COMPUTED
from nanorecsys.study.plots import INK, MUTED, PALETTE, axes, direct_label

_LEAST_MS = 0.01  # where a stage that took nothing is drawn
# Parts of a latency, see `analysis.parts`, from the server's core outwards; neighbours differ in
# lightness too.
COLORS = dict(
    zip(
        ("queue", NO_CORE, *COMPUTED, "event loop", "outside", "generator"),
        (PALETTE[5], PALETTE[6], PALETTE[0], PALETTE[4], PALETTE[2], PALETTE[1], "#BBBBBB", MUTED),
        strict=True,
    )
)


def knee(rows: Sequence[LoadRow], bound_ms: float, title: str) -> Figure:
    """P50, P95 and P99 against offered rate, and below them goodput, the bound and the offered rate as lines.

    Args:
        rows: of open loops at rising rates; void ones are drawn hollow.
        bound_ms: of P99.
        title: what was loaded.
    """
    figure, (left, right) = axes(2)
    rows = sorted((r for r in rows if r.p99_ms is not None), key=lambda r: r.offered_per_s)
    rates = [r.offered_per_s for r in rows]
    for name, color in (("p50_ms", PALETTE[0]), ("p95_ms", PALETTE[1]), ("p99_ms", PALETTE[5])):
        values = [getattr(r, name) for r in rows]
        left.plot(rates, values, color=color, label=name[:3].upper())
        for row, value in zip(rows, values, strict=True):
            _mark(left, row.offered_per_s, value, color, hollow=row.verdict == "VOID")
    left.axhline(bound_ms, color=MUTED, linestyle="--", linewidth=1)
    left.set(
        yscale="log", title=title, xlabel="offered, requests/s", ylabel="ms from the intended time"
    )
    _legend(figure, left)
    _plain(left)
    right.plot(rates, rates, color=MUTED, linestyle="--", linewidth=1)
    right.plot(rates, [r.goodput_per_s for r in rows], "o-", color=PALETTE[2], markersize=4)
    right.set(
        title="goodput",
        xlabel="offered, requests/s",
        ylabel="good answers/s",
        ylim=(0, None),
        xlim=(0, None),
    )
    return figure


def overload(
    seconds: pl.DataFrame, phases: Sequence[tuple[float, float]], bound_ms: float, title: str
) -> Figure:
    """Second by second: offered, good and refused requests, and P99 of the good.

    Args:
        seconds: `analysis.by_second`.
        phases: rate and seconds of each; the middle one is shaded.
        bound_ms: of P99.
        title: what was loaded.
    """
    figure, (left, right) = axes(2)
    at = seconds["second"].to_numpy() + 0.5
    begin, end = phases[0][1], phases[0][1] + phases[1][1]
    for axis in (left, right):
        axis.axvspan(begin, end, color="#F0F0F0", zorder=0)
    for name, color in (("offered", MUTED), ("good", PALETTE[2]), ("refused", PALETTE[5])):
        left.plot(
            at, seconds[name], color=color, linestyle="--" if name == "offered" else "-", label=name
        )
    _legend(figure, left)
    left.set(title=title, xlabel="s", ylabel="requests/s", ylim=(0, None))
    right.plot(at, seconds["p99_ms"], color=PALETTE[0])
    right.axhline(bound_ms, color=MUTED, linestyle="--", linewidth=1)
    right.set(title="P99 of the good", xlabel="s", ylabel="ms", ylim=(0, None))
    return figure


def ladder(rungs: Sequence[Rung], title: str) -> Figure:
    """CPU ms a request, and the highest rate, rung by rung from the top."""
    with_rates = any(r.highest_per_s for r in rungs)
    figure, panels = axes(2 if with_rates else 1, height=1.0 + 0.34 * len(rungs))
    places = np.arange(len(rungs))[::-1]
    _bars(panels[0], places, [r.cpu_ms for r in rungs], PALETTE[0], "{:.1f}")
    panels[0].set(title=title, xlabel="CPU ms a request", yticks=places)
    panels[0].set_yticklabels([r.name for r in rungs])
    if with_rates:
        _bars(panels[1], places, [r.highest_per_s or 0 for r in rungs], PALETTE[2], "{:,.0f}")
        panels[1].set(title="highest rate", xlabel="requests/s", yticks=places)
        panels[1].set_yticklabels([])
    return figure


def breakdown(found: Sequence[Band], title: str) -> Figure:
    """Mean time in each part, a bar for each band of latency."""
    figure, (axis,) = axes(height=1.4 + 0.5 * len(found))
    places = np.arange(len(found))[::-1]
    left = np.zeros(len(found))
    for name in COLORS:
        values = np.array([max(band.parts_ms[name], 0.0) for band in found])
        axis.barh(places, values, left=left, color=COLORS[name], label=name, height=0.62)
        left += values
    axis.set(title=title, xlabel="ms, mean of the band", yticks=places)
    axis.set_yticklabels([f"{_quantile(b.low)} to {_quantile(b.high)}" for b in found])
    _legend(figure, axis)
    return figure


def prediction(predicted: Sequence[Predicted], title: str) -> Figure:
    """Predicted percentiles as lines, measured ones as dots, the P99 with its range, against the offered rate."""
    figure, (axis,) = axes()
    predicted = sorted(predicted, key=lambda p: p.offered_per_s)
    rates = [p.offered_per_s for p in predicted]
    for name, color in (("p50", PALETTE[0]), ("p95", PALETTE[1]), ("p99", PALETTE[5])):
        foreseen = [getattr(p, f"predicted_{name}_ms") for p in predicted]
        axis.plot(rates, foreseen, color=color, label=name.upper())
        axis.plot(
            rates,
            [getattr(p, f"measured_{name}_ms") for p in predicted],
            "o",
            color=color,
            markersize=5,
        )
    low, high = (
        [getattr(p, f"measured_p99_{end}_ms") for p in predicted] for end in ("low", "high")
    )
    axis.vlines(rates, low, high, color=color, linewidth=1.5)
    axis.set(
        yscale="log",
        title=title,
        xlabel="offered, requests/s",
        ylabel="ms: predicted (line), measured (dot)",
    )
    _legend(figure, axis)
    _plain(axis)
    return figure


def original(found: Sequence[Original], p99_ms: float, rate: float, title: str) -> Figure:
    """P99 of the original's service times against its rate, where hits pass by the queue and where they wait."""
    figure, (axis,) = axes()
    for waits, color, name in ((False, PALETTE[0], "hits pass"), (True, PALETTE[1], "hits wait")):
        own = sorted((o for o in found if o.hits_wait == waits), key=lambda o: o.offered_per_s)
        axis.plot(
            [o.offered_per_s for o in own],
            [o.p99_ms for o in own],
            "o-",
            color=color,
            markersize=4,
            label=name,
        )
    axis.plot([rate], [p99_ms], "x", color=PALETTE[5], markersize=10, markeredgewidth=2.5)
    direct_label(axis, rate, p99_ms, "published", PALETTE[5], dx=-10)
    _legend(figure, axis)
    axis.set(yscale="log", title=title, xlabel="offered, requests/s", ylabel="P99, ms")
    _plain(axis)
    return figure


def cold_shares(rows: Sequence[LoadRow], title: str) -> Figure:
    """CPU ms a request and P99 against the share of cold requests."""
    figure, (left, right) = axes(2)
    shares = [100 * (1 - r.hit_share) for r in rows]
    order = np.argsort(shares)
    for axis, values, color in (
        (left, [r.server_cpu_ms for r in rows], PALETTE[0]),
        (right, [r.p99_ms for r in rows], PALETTE[5]),
    ):
        axis.plot(
            np.array(shares)[order], np.array(values, float)[order], "o-", color=color, markersize=5
        )
        axis.set(xlabel="computed, % of answers", ylim=(0, None), xlim=(0, 105))
    left.set(title=title, ylabel="CPU ms a request")
    right.set(title="latency", ylabel="P99, ms")
    return figure


def stages(alone: dict[str, Percentiles], loaded: dict[str, Percentiles], title: str) -> Figure:
    """P50, P95 and P99 of each stage, of requests one at a time and under load."""
    figure, panels = axes(2, height=3.4)
    for axis, found, name in zip(
        panels, (alone, loaded), (title, "at the highest rate"), strict=True
    ):
        places = np.arange(len(found))[::-1]
        for place, stage in zip(places, found.values(), strict=True):
            axis.plot(
                [max(stage.p50, _LEAST_MS), max(stage.p99, _LEAST_MS)],
                [place, place],
                color="#BBBBBB",
                zorder=1,
            )
            for value, color in (
                (stage.p50, PALETTE[0]),
                (stage.p95, PALETTE[1]),
                (stage.p99, PALETTE[5]),
            ):
                axis.plot([max(value, _LEAST_MS)], [place], "o", color=color, markersize=5)
        axis.set(xscale="log", title=name, xlabel="ms", yticks=places)
        axis.set_yticklabels(list(found) if axis is panels[0] else [])
        axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    return figure


def _legend(figure: Figure, axis: Axes) -> None:
    """Below the panels, where nothing is drawn."""
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=9)


def _bars(axis: Axes, places: np.ndarray, values: Sequence[float], color: str, form: str) -> None:
    axis.barh(places, values, color=color, height=0.6)
    for place, value in zip(places, values, strict=True):
        text = form.format(value) if value else "none"
        axis.annotate(
            text,
            (value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=9,
        )
    axis.margins(x=0.18)
    axis.grid(axis="y", visible=False)


def _mark(axis: Axes, x: float, y: float, color: str, *, hollow: bool) -> None:
    axis.plot(
        [x], [y], "o", color=color, markersize=5, markerfacecolor="white" if hollow else color
    )


def _plain(axis: Axes) -> None:
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f"{y:g}"))
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())


def _quantile(q: float) -> str:
    return {0.0: "fastest", 1.0: "slowest"}.get(q, f"P{100 * q:g}")
