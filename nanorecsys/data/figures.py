"""The figures of the data chapter: typed descriptions in, matplotlib figures out."""

import matplotlib.ticker as ticker
import numpy as np
from matplotlib.figure import Figure

from nanorecsys.data.describe import Catalogue, HistoryLengths, Leakage, PopularityTail, Timeline
from nanorecsys.study.plots import INK, MUTED, PALETTE, axes, direct_label

PLAIN = ticker.FuncFormatter(lambda x, _: f"{x:,.0f}")
PERCENT = ticker.PercentFormatter(1.0, decimals=0)


def history_lengths(described: HistoryLengths) -> Figure:
    """Histogram of events a user, on a log axis, median and mean marked."""
    figure, (axis,) = axes(height=3.2)
    lengths = described.lengths
    bins = np.geomspace(max(lengths.min(), 1), lengths.max() + 1, 31)
    axis.hist(lengths, bins=bins, color=PALETTE[0])
    axis.set(xscale="log", xlabel="events in a history", ylabel="users")
    axis.xaxis.set_major_formatter(PLAIN)
    top = axis.get_ylim()[1]
    for value, name, line, side in (
        (described.quantiles[0.5], "median", "-", -1),
        (described.mean, "mean", "--", 1),
    ):
        axis.axvline(value, color=PALETTE[5], linewidth=1.5, linestyle=line)
        direct_label(axis, value, top * 0.95, f"{name} {value:,.0f}", PALETTE[5], dx=6 * side)
    return figure


def popularity(described: PopularityTail) -> Figure:
    """Events an item against its rank, both on log axes; the rarely rated part shaded."""
    figure, (axis,) = axes(height=3.4)
    counts = described.counts
    ranks = np.arange(1, len(counts) + 1)
    axis.plot(ranks, counts, color=PALETTE[0])
    axis.set(
        xscale="log", yscale="log", xlabel="items, most popular first", ylabel="events of the item"
    )
    for set_formatter in (axis.xaxis.set_major_formatter, axis.yaxis.set_major_formatter):
        set_formatter(PLAIN)
    top = int(np.ceil(len(counts) / 100))
    axis.axvspan(1, top, color=PALETTE[1], alpha=0.2, linewidth=0)
    axis.text(
        1.15,
        counts[-1] * 1.3,
        f"top 1 % of items:\n{described.top_1_percent_share:.0%} of events",
        color=INK,
    )
    first_rare = int((counts >= 5).sum()) + 1
    axis.axvspan(first_rare, len(counts), color=MUTED, alpha=0.2, linewidth=0)
    axis.text(
        first_rare * 0.9,
        counts[0] * 0.5,
        f"{described.below_5_share:.0%} of items have\nfewer than 5 events",
        color=INK,
        ha="right",
        va="center",
    )
    return figure


def timeline(described: Timeline, borders: dict[str, int]) -> Figure:
    """Events a month, with the borders of the temporal split.

    Args:
        described: events a month.
        borders: what begins there, to its first timestamp in seconds.
    """
    figure, (axis,) = axes(height=3.2)
    days = described.months.astype("datetime64[D]")
    axis.bar(days, described.events, width=31, align="edge", color=PALETTE[0])
    axis.set(xlabel="month", ylabel="events")
    axis.yaxis.set_major_formatter(PLAIN)
    top = described.events.max()
    for level, (name, timestamp) in enumerate(borders.items()):
        when = np.datetime64(timestamp, "s")
        axis.axvline(when, color=PALETTE[5], linewidth=1.5)
        direct_label(axis, when, top * (1.0 - 0.1 * level), name, PALETTE[5], dx=-4)
    return figure


def catalogue(described: Catalogue) -> Figure:
    """Items of each genre, and items by release year."""
    figure, (left, right) = axes(columns=2, height=4.2)
    genres = described.genres
    left.barh(genres["genre"].to_list()[::-1], genres["items"].to_list()[::-1], color=PALETTE[0])
    left.set(xlabel="items of the genre")
    left.tick_params(axis="y", labelsize=9)
    left.grid(visible=False, axis="y")
    years = described.years
    right.bar(years["year"].to_list(), years["items"].to_list(), width=1.0, color=PALETTE[2])
    right.set(xlabel="release year", ylabel="items")
    for axis in (left.xaxis, right.yaxis):
        axis.set_major_formatter(PLAIN)
    return figure


def leakage(described: dict[str, Leakage]) -> Figure:
    """Share of test events with at least so much of the others' training in their future, a line a split.

    Args:
        described: leakage by split, the most leaking first.
    """
    figure, (axis,) = axes(height=3.4)
    names = {"leave_one_out": "leave-one-out", "global_temporal": "global temporal"}
    for color, (name, leak) in zip(PALETTE, described.items(), strict=False):
        future = np.sort(leak.future_share)[::-1]
        share = np.arange(1, len(future) + 1) / len(future)
        axis.step(np.append(future, 0.0), np.append(share, 1.0), where="pre", color=color)
        middle = len(future) // 2
        if future[0] > 0:
            direct_label(axis, future[middle], share[middle], names.get(name, name), color, dy=10)
        else:
            direct_label(axis, 0.0, 0.06, names.get(name, name) + ": none", color)
    axis.set(
        xlabel="share of the other users' training events that lie in the future",
        ylabel="share of test events\nwith at least that",
        xlim=(-0.01, 1.0),
        ylim=(0.0, 1.02),
    )
    axis.xaxis.set_major_formatter(PERCENT)
    axis.yaxis.set_major_formatter(PERCENT)
    return figure
