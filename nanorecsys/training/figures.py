"""The figures of the training chapter."""

from collections.abc import Mapping

import matplotlib.ticker as ticker
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanorecsys.study.plots import INK, MUTED, PALETTE, axes, direct_label
from nanorecsys.training.result import Quality, Rate, Variant


def learning_curves(curves: Mapping[str, pl.DataFrame]) -> Figure:
    """Validation NDCG@10 after each epoch, a line a way to represent items; training loss beside it.

    Args:
        curves: name to `loop.Trained.curve`.
    """
    figure, (left, right) = axes(columns=2, height=3.4)
    for color, (name, curve) in zip(PALETTE, curves.items(), strict=False):
        epochs = curve["epoch"].to_list()
        for axis, column in ((left, "validation"), (right, "loss")):
            axis.plot(epochs, curve[column].to_list(), marker="o", markersize=4, color=color)
        direct_label(left, epochs[-1], curve["validation"][-1], name, color, dx=-6, dy=9)
    left.set(xlabel="epoch", ylabel="validation NDCG@10", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="training loss")
    for axis in (left, right):
        axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axis.margins(x=0.1)
        axis.set_xlim(left=0.5)
    return figure


def qualities(tasks: Mapping[str, Mapping[str, Quality]], own: str) -> Figure:
    """NDCG@10 of every model with its interval, a panel a task, models in the order of the first task.

    Args:
        tasks: title of a task to quality by model.
        own: the model to set apart by its colour.
    """
    names = sorted(next(iter(tasks.values())), key=lambda n: next(iter(tasks.values()))[n].ndcg)
    figure, panels = axes(columns=len(tasks), height=0.6 + 0.34 * len(names))
    for axis, (title, models) in zip(panels, tasks.items(), strict=True):
        for place, name in enumerate(names):
            q = models[name]
            _interval(
                axis,
                place,
                q.ndcg,
                q.ndcg_low,
                q.ndcg_high,
                PALETTE[5] if name == own else PALETTE[0],
            )
        axis.set(title=title, xlabel="NDCG@10", xlim=(0, None), yticks=range(len(names)))
        axis.set_yticklabels(names if axis is panels[0] else [])
    return figure


def ablation(variants: Mapping[str, Variant], base: str) -> Figure:
    """Validation NDCG@10 of each variant, its seeds' range as a bar, the base as a line through all."""
    figure, (axis,) = axes(height=0.8 + 0.32 * len(variants))
    axis.axvline(variants[base].ndcg, color=MUTED, linestyle="--", linewidth=1)
    for place, (name, v) in enumerate(reversed(variants.items())):
        _interval(
            axis, place, v.ndcg, v.lowest, v.highest, PALETTE[5] if name == base else PALETTE[0]
        )
    axis.set(xlabel="validation NDCG@10", xlim=(0, None), yticks=range(len(variants)))
    axis.set_yticklabels(list(variants)[::-1])
    return figure


def throughput(rates: Mapping[str, Rate]) -> Figure:
    """Tokens a second of each loop, lowest and highest repeat as a line."""
    figure, (axis,) = axes(height=0.9 + 0.4 * len(rates))
    for place, rate in enumerate(reversed(rates.values())):
        axis.barh(place, rate.tokens_per_s, color=PALETTE[0], height=0.6)
        axis.plot([rate.lowest, rate.highest], [place, place], color=INK)
        axis.text(rate.highest, place, f"  {rate.times_padded:.1f}x", va="center", color=INK)
    axis.set(xlabel="tokens a second", yticks=range(len(rates)))
    axis.set_yticklabels(list(rates)[::-1])
    axis.grid(visible=False, axis="y")
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    return figure


def _interval(axis: Axes, place: float, middle: float, low: float, high: float, color: str) -> None:
    axis.plot([low, high], [place, place], color=color, linewidth=2)
    axis.plot([middle], [place], marker="o", markersize=6, color=color)
