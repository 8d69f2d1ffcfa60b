"""The figures of the nearest-neighbour chapter. A title says what was searched, synthetic vectors included."""

from collections.abc import Mapping, Sequence

import matplotlib.ticker as ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from nanorecsys.ann.limits import MIB, Limits
from nanorecsys.ann.result import Confirmed, Operating, Recommended
from nanorecsys.ann.specs import USERS_FAMILY
from nanorecsys.study.plots import INK, MUTED, PALETTE, axes, direct_label

# Families share a colour by what they do; direct labels tell them apart.
_GROUPS = (
    ("exact", PALETTE[6], ("Flat",)),
    (
        "codes, whole scan",
        PALETTE[4],
        ("scalar quantizer", "PQ fast scan, refined", "RaBitQ, refined"),
    ),
    (
        "inverted lists",
        PALETTE[0],
        ("IVF-Flat", "IVF-SQ8", "IVF-PQ", "OPQ, IVF-PQ", "IVF-PQ fast scan, refined"),
    ),
    ("users' directions", PALETTE[1], (USERS_FAMILY,)),
    ("RaBitQ fast scan", PALETTE[3], ("RaBitQ fast scan, refined",)),
    ("graphs", PALETTE[2], ("HNSW", "HNSW-SQ", "NSG", "usearch")),
)
# Where a name may stand beside its point, in points of type: the first that is free.
_OFFSETS = (5, 0), (-5, 0), (5, 6), (-5, 6), (5, -6), (-5, -6), (0, 9), (0, -9)
_LOSS_FLOOR = 1e-5  # where a recall of one is drawn


def energy(curves: Mapping[str, np.ndarray], kept: Sequence[int], title: str) -> Figure:
    """Cumulative share of squared length by direction, one line a set, and the sizes that the table projects to.

    Args:
        curves: of each set, see `nanorecsys.ann.corpus.energy`.
        kept: directions that indexes keep, as dashed lines.
        title: what was searched.
    """
    figure, (axis,) = axes(height=3.6)
    for count in kept:
        axis.axvline(count, color="#BBBBBB", linestyle="--", linewidth=1, zorder=1)
    for (name, shares), color in zip(
        curves.items(), (PALETTE[1], PALETTE[5], PALETTE[0]), strict=False
    ):
        axis.plot(np.arange(1, len(shares) + 1), shares, color=color, label=name)
    axis.set(
        xscale="log",
        title=title,
        xlabel="directions",
        ylabel="share of squared length",
        ylim=(0, 1.02),
    )
    axis.xaxis.set_major_locator(ticker.LogLocator(2))
    _plain_log(axis.xaxis)
    axis.legend(loc="upper left", fontsize=9)
    return figure


def pareto(points: Sequence[Operating], chosen: Recommended | None, title: str) -> Figure:
    """Recall against exact search (what is missing, log) and P50 (log), every point; the front as a line.

    Args:
        points: all that were measured.
        chosen: the recommended index, marked; None for none.
        title: what was searched.
    """
    figure, (axis,) = axes(height=4.8)
    for name, color, families in _GROUPS:
        own = [p for p in points if p.family in families]
        axis.plot(
            [p.p50_ms.middle for p in own],
            [_loss(p) for p in own],
            ".",
            color=color,
            markersize=6,
            label=name,
        )
    other = [p for p in points if not any(p.family in families for *_, families in _GROUPS)]
    if other:
        axis.plot(
            [p.p50_ms.middle for p in other],
            [_loss(p) for p in other],
            ".",
            color=MUTED,
            label="as given",
        )
    front = sorted((p for p in points if p.on_front), key=lambda p: p.p50_ms.middle)
    axis.plot(
        [p.p50_ms.middle for p in front], [_loss(p) for p in front], color=PALETTE[5], linewidth=1.2
    )
    if chosen:
        mark = next(p for p in points if (p.factory, p.search) == (chosen.factory, chosen.search))
        ring = {"markersize": 12, "markerfacecolor": "none", "linestyle": "none"}
        axis.plot(
            [mark.p50_ms.middle], [_loss(mark)], "o", **ring, color=PALETTE[5], label="recommended"
        )
    axis.set(
        xscale="log",
        yscale="log",
        title=title,
        xlabel="P50, ms a query",
        ylabel="missed of the exact neighbours",
    )
    axis.invert_yaxis()
    axis.margins(x=0.2, y=0.08)
    _plain_log(axis.xaxis)
    axis.legend(loc="upper left", fontsize=9)
    last = {p.factory: p for p in front}  # of each index on the front its most exact point
    label_places(axis, [(p.p50_ms.middle, _loss(p), p.factory) for p in last.values()], size=8.5)
    return figure


def floor(points: Sequence[Operating], limits: Limits, title: str) -> Figure:
    """P50 of every scan against the bytes that it reads, above the line of what reading them takes.

    Args:
        points: one a specification; graphs, which do not scan, are left out.
        limits: of the machine.
        title: what was searched.
    """
    figure, (axis,) = axes(height=4.2)
    scans = [p for p in points if p.read_mib is not None]
    sizes = [p.read_mib for p in scans]
    ends = [min(sizes) / 2, max(sizes) * 2]
    axis.plot(
        ends,
        [s * MIB / limits.memory_gb_per_s / 1e6 for s in ends],
        color=MUTED,
        linestyle="--",
        linewidth=1.2,
    )
    direct_label(
        axis,
        ends[1],
        ends[1] * MIB / limits.memory_gb_per_s / 1e6,
        "main memory",
        MUTED,
        dx=-12,
        dy=6,
    )
    for p in scans:
        color = PALETTE[6] if p.family == "Flat" else PALETTE[0]
        axis.plot(
            [p.read_mib, p.read_mib],
            [p.floor_ms, p.p50_ms.middle],
            color="#BBBBBB",
            linewidth=1,
            zorder=1,
        )
        axis.plot([p.read_mib], [p.floor_ms], "_", color=PALETTE[5], markersize=9)
        axis.plot([p.read_mib], [p.p50_ms.middle], "o", color=color, markersize=5)
    axis.set(
        xscale="log", yscale="log", title=title, xlabel="MiB read a query", ylabel="ms a query"
    )
    _plain_log(axis.xaxis)
    _plain_log(axis.yaxis)
    label_places(axis, [(p.read_mib, p.p50_ms.middle, p.factory) for p in scans])
    return figure


def memory(points: Sequence[Operating], bound_bytes: float, title: str) -> Figure:
    """Bytes a vector against what is missed (log), one point a specification, the bound of the rule as a line.

    Args:
        points: one a specification.
        bound_bytes: what the rule allows.
        title: what was searched.
    """
    figure, (axis,) = axes(height=4.2)
    axis.axvline(bound_bytes, color=MUTED, linestyle="--", linewidth=1)
    for p in points:
        color = next((c for _, c, families in _GROUPS if p.family in families), MUTED)
        axis.plot([p.bytes_a_vector], [_loss(p)], "o", color=color, markersize=5)
    axis.set(
        xscale="log",
        yscale="log",
        title=title,
        xlabel="bytes a vector",
        ylabel="missed of the exact neighbours",
    )
    axis.invert_yaxis()
    axis.margins(x=0.25, y=0.1)
    _plain_log(axis.xaxis)
    label_places(axis, [(p.bytes_a_vector, _loss(p), p.factory) for p in points])
    return figure


def confirmation(points: Sequence[Confirmed], title: str) -> Figure:
    """P50 and P99 of the finalists, range over rounds as a line, times Flat beside them."""
    figure, (axis,) = axes(height=0.9 + 0.36 * len(points))
    for place, p in enumerate(reversed(points)):
        for spread, color in ((p.p50_ms, PALETTE[0]), (p.p99_ms, PALETTE[5])):
            axis.plot([spread.low, spread.high], [place, place], color=color)
            axis.plot([spread.middle], [place], "o", color=color, markersize=5)
        axis.annotate(
            f"{p.times_flat:.1f}x",
            (p.p99_ms.high, place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=INK,
        )
    axis.set(
        xscale="log",
        title=title,
        xlabel="ms a query: P50 (blue), P99 (red)",
        yticks=range(len(points)),
    )
    axis.set_yticklabels([f"{p.factory} {p.search}".strip() for p in points][::-1], fontsize=9)
    axis.margins(x=0.12)
    _plain_log(axis.xaxis)
    return figure


def parts(points: Sequence[Confirmed], flat_ms: float, title: str) -> Figure:
    """What each layer of the finalists' searches adds, stacked from the innermost, Flat's fractions as dashed lines.

    Args:
        points: those that were taken apart.
        flat_ms: P50 of Flat.
        title: what was searched.
    """
    figure, (axis,) = axes(height=1.9 + 0.4 * len(points))
    names = reversed(max((p.parts_ms for p in points), key=len, default={}))
    left = np.zeros(len(points))
    for name, color in zip(
        names, (PALETTE[6], PALETTE[5], PALETTE[0], PALETTE[1], PALETTE[4]), strict=False
    ):
        width = np.array([max(1e3 * p.parts_ms.get(name, 0.0), 0.0) for p in reversed(points)])
        axis.barh(
            range(len(points)),
            width,
            left=left,
            height=0.6,
            color=color,
            edgecolor="white",
            label=name,
        )
        left += width
    for times in (10, 20):
        axis.axvline(1e3 * flat_ms / times, color=MUTED, linestyle="--", linewidth=1)
        axis.annotate(
            f"Flat / {times}",
            (1e3 * flat_ms / times, 1),
            xycoords=axis.get_xaxis_transform(),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=9,
            color=MUTED,
        )
    axis.set(
        title=title, xlabel="µs a query", yticks=range(len(points)), ylim=(-0.6, len(points) + 0.1)
    )
    axis.set_yticklabels([f"{p.factory}\n{p.search}" for p in reversed(points)], fontsize=8)
    axis.grid(visible=False, axis="y")
    if points:  # a run may have no finalist with lists
        figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure


def label_places(axis: Axes, points: Sequence[tuple[float, float, str]], size: float = 7) -> None:
    """Names beside points where there is room for them, over no other name, point or legend; else a point gets none.

    Args:
        axis: a panel on which all else is drawn.
        points: x, y and name; the first ones are served first.
        size: of the type, in points.
    """
    figure = axis.figure
    figure.draw_without_rendering()  # places are final only after the layout
    drawn = [
        line.get_transform().transform(line.get_xydata())
        for line in axis.lines
        if line.get_marker() != "None"
    ]
    radius = 2 * figure.dpi / 72
    taken = [Bbox.from_extents(*(xy - radius), *(xy + radius)) for xy in np.concatenate(drawn)]
    taken += [legend.get_window_extent() for legend in [axis.get_legend()] if legend]
    for x, y, name in points:
        for dx, dy in _OFFSETS:
            text = axis.annotate(
                name,
                (x, y),
                xytext=(dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                va="center",
                fontsize=size,
                color=INK,
            )
            text.set_in_layout(False)
            box = text.get_window_extent()
            if (
                axis.bbox.containsx(box.x0)
                and axis.bbox.containsx(box.x1)
                and not box.count_overlaps(taken)
            ):
                taken.append(box)
                break
            text.remove()


def _loss(point: Operating) -> float:
    return max(1 - point.recall_k, _LOSS_FLOOR)


def _plain_log(axis) -> None:
    axis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())
