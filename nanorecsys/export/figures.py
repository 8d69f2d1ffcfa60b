"""The figures of the export chapter."""

from collections.abc import Mapping, Sequence

import matplotlib.ticker as ticker
import polars as pl
from matplotlib.figure import Figure

from nanorecsys.export.result import Append, VariantResult
from nanorecsys.study.plots import INK, MUTED, PALETTE, axes, direct_label

# Operators with a share of their own in the profile; the rest are one bar.
SHOWN_OPERATORS = 6


def means(variants: Mapping[str, VariantResult], chosen: str) -> Figure:
    """Mean latency over real histories, slowest first, the range over repeats as a line, the chosen one apart."""
    names = sorted(variants, key=lambda name: variants[name].mean_ms)
    figure, (axis,) = axes(height=0.9 + 0.34 * len(names))
    slowest = variants[names[-1]].mean_ms
    for place, name in enumerate(names):
        v = variants[name]
        axis.barh(place, v.mean_ms, color=PALETTE[5] if name == chosen else PALETTE[0], height=0.6)
        axis.plot([v.mean_lowest_ms, v.mean_highest_ms], [place, place], color=INK)
        text = f"  {v.mean_ms:.1f} ms, {slowest / v.mean_ms:.1f}x"
        axis.text(max(v.mean_ms, v.mean_highest_ms), place, text, va="center", color=INK)
    axis.set(
        xlabel="ms a user, mean over real histories",
        xlim=(0, 1.3 * slowest),
        yticks=range(len(names)),
    )
    axis.set_yticklabels(names)
    axis.grid(visible=False, axis="y")
    return figure


def by_length(grid: pl.DataFrame, names: Sequence[str]) -> Figure:
    """Median latency of one user on one thread against the length of the history, a line a variant."""
    figure, (axis,) = axes(height=4.0)
    for color, name in zip(PALETTE, names, strict=False):
        rows = (
            grid.filter(variant=name, batch=1, threads=1)
            .group_by("length")
            .agg(pl.col("ms").median())
            .sort("length")
        )
        lengths, ms = rows["length"].to_list(), rows["ms"].to_list()
        if len(lengths) == 1:  # padded to the window: the same at any length
            axis.axhline(ms[0], color=color, linestyle="--")
            direct_label(axis, 0.02 * max(grid["length"]), ms[0], name, color, dx=0, dy=9)
        else:
            axis.plot(lengths, ms, marker="o", markersize=4, color=color)
            direct_label(axis, lengths[-1], ms[-1], name, color)
    axis.set(
        xlabel="events in the history",
        ylabel="ms",
        xlim=(0, 1.35 * grid["length"].max()),
        yscale="log",
    )
    axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f"{y:g}"))
    return figure


def profiles(ms: Mapping[str, Mapping[str, float]], floor_ms: Mapping[str, float]) -> Figure:
    """Where the time of an encode goes, by operator, one bar a variant; a mark where its products alone would end.

    Args:
        ms: variant to milliseconds by operator.
        floor_ms: variant to its arithmetic over the machine's peak.
    """
    total: dict[str, float] = {}
    for spent in ms.values():
        for operator, value in spent.items():
            total[operator] = max(total.get(operator, 0.0), value)
    shown = sorted(total, key=lambda operator: -total[operator])[:SHOWN_OPERATORS]
    figure, (axis,) = axes(height=1.9 + 0.6 * len(ms))
    for place, (name, spent) in enumerate(reversed(ms.items())):
        left = 0.0
        parts = [(o, spent.get(o, 0.0)) for o in shown]
        parts.append(("all others", sum(spent.values()) - sum(value for _, value in parts)))
        for color, (operator, value) in zip(
            [*PALETTE[:SHOWN_OPERATORS], MUTED], parts, strict=True
        ):
            label = operator if place == 0 else None
            axis.barh(
                place, value, left=left, color=color, height=0.55, edgecolor="white", label=label
            )
            left += value
        axis.plot([floor_ms[name]] * 2, [place - 0.4, place + 0.4], color=INK, linewidth=2.5)
    axis.set(xlabel="ms in ONNX Runtime's operators", yticks=range(len(ms)))
    axis.set_yticklabels(list(ms)[::-1])
    axis.grid(visible=False, axis="y")
    axis.legend(loc="upper center", bbox_to_anchor=(0.4, -0.35), ncols=2, fontsize=9)
    return figure


def costs(variants: Mapping[str, VariantResult], chosen: str, loss: float) -> Figure:
    """Change of NDCG@10 with its interval by variant; left of the dashed line it is a loss that the rule excludes."""
    names = list(variants)[::-1]
    figure, (axis,) = axes(height=0.9 + 0.34 * len(names))
    base = next(iter(variants.values())).closeness.ndcg.base
    axis.axvline(0, color=MUTED, linewidth=1)
    axis.axvline(-loss * 100, color=MUTED, linestyle="--", linewidth=1)
    for place, name in enumerate(names):
        change = variants[name].closeness.ndcg
        low, middle, high = (
            100 * value / max(base, 1e-9) for value in (change.low, change.change, change.high)
        )
        color = PALETTE[5] if name == chosen else PALETTE[0]
        axis.plot([low, high], [place, place], color=color)
        axis.plot([middle], [place], marker="o", markersize=6, color=color)
    axis.set(xlabel="change of NDCG@10, %", yticks=range(len(names)))
    axis.set_yticklabels(names)
    return figure


def append_costs(costs: Sequence[Append]) -> Figure:
    """Milliseconds of one appended event and of a full encode against the length of the history."""
    figure, (axis,) = axes(height=3.2)
    length = [c.length for c in costs]
    step, full = [c.step_ms for c in costs], [c.full_ms for c in costs]
    for color, name, ms in ((PALETTE[0], "append", step), (PALETTE[5], "full encode", full)):
        axis.plot(length, ms, marker="o", markersize=4, color=color)
        direct_label(axis, length[-1], ms[-1], name, color)
    axis.set(
        xlabel="events in the history", ylabel="ms", xlim=(0, 1.3 * max(length)), ylim=(0, None)
    )
    return figure


def grid_rows(grid: pl.DataFrame, names: Sequence[str]) -> list[tuple]:
    """Rows of a table: threads, batch, length, and of each variant the median ms a user, None where not measured."""
    cells = grid.group_by("threads", "batch", "length", "variant").agg(
        ms=pl.col("ms").median() / pl.col("batch").first()
    )
    wide = cells.pivot("variant", index=["threads", "batch", "length"], values="ms").sort(
        "threads", "batch", "length"
    )
    return list(wide.select("threads", "batch", "length", *names).iter_rows())
