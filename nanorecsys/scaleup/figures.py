"""The figures of the scale-up chapter."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import matplotlib.ticker as ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanorecsys.ann.specs import BASELINE
from nanorecsys.scaleup.analysis import PROMISE, gap, kept_promise
from nanorecsys.scaleup.curves import FAMILIES, Curve
from nanorecsys.scaleup.result import Growth, Judged, Moved, Row
from nanorecsys.study.plots import INK, MUTED, PALETTE, axes

_SETTING = {
    "IVF": "nprobe",
    "HNSW": "efSearch",
    "PQ": "bytes a vector, PQ",
    "SQ": "bytes a vector, SQ",
}
_COLORS = {
    "independent": PALETTE[5],
    "gaussian": PALETTE[1],
    "mixture": PALETTE[3],
    "local": PALETTE[4],
    "tangent": MUTED,
    "recombined": PALETTE[0],
}


def curves(real: Mapping[str, Curve], judged: Sequence[Judged], title: str) -> Figure:
    """Recall@10 of each family at each setting: the real catalogue black, each generator in its colour."""
    figure, panels = plt.subplots(2, 2, figsize=(7.0, 6.2))
    for axis, family in zip(panels.flat, FAMILIES, strict=True):
        for j in judged:
            c = gap(j, family).curve
            axis.plot(
                c.settings, c.recall, color=_color(j.generator), linewidth=1.4, label=j.generator
            )
        c = real[family]
        axis.plot(c.settings, c.recall, color=PALETTE[6], marker=".", linestyle="--", label="real")
        axis.set(xscale="log", xlabel=_SETTING[family], ylabel="recall@10")
        axis.set_xticks(c.settings)
        _plain(axis.xaxis)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    return figure


def gaps(judged: Sequence[Judged], bound: float, title: str) -> Figure:
    """Largest difference in recall of each generator and family, with its interval; the bound as a band."""
    figure, panels = axes(len(FAMILIES), height=1.1 + 0.34 * len(judged))
    for axis, family in zip(panels, FAMILIES, strict=True):
        axis.axvspan(-bound, bound, color="#E8EEF4", zorder=0)
        axis.axvline(0, color=MUTED, linewidth=0.8)
        for place, j in enumerate(reversed(judged)):
            g = gap(j, family)
            axis.plot([g.low, g.high], [place, place], color=_color(j.generator), linewidth=1.6)
            axis.plot([g.largest], [place], "o", color=_color(j.generator), markersize=5)
        # by the dots: over few subsets an interval can be far wider than all of them
        reach = 1.4 * max(bound, *(abs(gap(j, family).largest) for j in judged))
        axis.set_xlim(-reach, reach)
        _generators(axis, family, judged, named=axis is panels[0])
    figure.supxlabel(
        "difference in recall@10: left too hard, right too easy", fontsize=10, color=INK
    )
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    return figure


def promises(judged: Sequence[Judged], real: Mapping[str, Curve], title: str) -> Figure:
    """What settings that reach 0.95 on made-up catalogues find in the real one; for codes, what the largest finds.

    A hollow mark is the promise, a filled one what the real catalogue gives.
    """
    figure, panels = axes(len(FAMILIES), height=1.1 + 0.34 * len(judged))
    for axis, family in zip(panels, FAMILIES, strict=True):
        for place, j in enumerate(reversed(judged)):
            promised, found = kept_promise(gap(j, family).curve, real[family], PROMISE)
            color = _color(j.generator)
            axis.plot([promised, found], [place, place], color=color, linewidth=1.4)
            axis.plot([promised], [place], "o", color=color, markerfacecolor="white", markersize=6)
            axis.plot([found], [place], "o", color=color, markersize=5)
        axis.margins(x=0.15)
        _generators(axis, family, judged, named=axis is panels[0])
    figure.supxlabel(
        "recall@10: hollow promised, filled found in the real catalogue", fontsize=10, color=INK
    )
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    return figure


def moved(rows: Sequence[Moved], n: int, floor: float, title: str) -> Figure:
    """What settings chosen under each generator find on another one's catalogue of n items, a panel an index.

    A hollow mark is the recall where it was chosen, a filled one that on the other; the floor is
    dashed.
    """
    own = [m for m in rows if m.n == n]
    factories, generators = (
        list(dict.fromkeys(m.factory for m in own)),
        list(dict.fromkeys(m.generator for m in own)),
    )
    figure, panels = axes(max(1, len(factories)), height=1.3 + 0.34 * len(generators))
    for axis, factory in zip(
        panels, factories, strict=False
    ):  # where no generator was tried, an empty panel
        axis.axvline(floor, color=MUTED, linewidth=0.8, linestyle="--")
        for m in (m for m in own if m.factory == factory):
            place, color = len(generators) - 1 - generators.index(m.generator), _color(m.generator)
            axis.plot([m.promised, m.found], [place, place], color=color, linewidth=1.4)
            axis.plot(
                [m.promised], [place], "o", color=color, markerfacecolor="white", markersize=6
            )
            axis.plot([m.found], [place], "o", color=color, markersize=5)
        axis.margins(x=0.15)
        axis.set_title(factory.replace(",PQ", ",\nPQ"), fontsize=9)
        axis.set_ylim(-0.6, len(generators) - 0.4)
        axis.set_yticks(range(len(generators)))
        axis.set_yticklabels(generators[::-1] if axis is panels[0] else [])
        axis.xaxis.set_major_locator(ticker.MaxNLocator(4))
    figure.supxlabel("recall@10: hollow promised, filled found", fontsize=10, color=INK)
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    return figure


def growth(rows: Sequence[Row], laws: Sequence[Growth], floor: float, title: str) -> Figure:
    """P50 against n on log axes by family; hollow below the floor of recall; reading the vectors as a dashed line."""
    figure, (axis,) = axes(height=4.4)
    colors = dict(
        zip(dict.fromkeys(r.family for r in rows), (PALETTE[6], *PALETTE[:6], MUTED), strict=False)
    )
    for family, color in colors.items():
        own = sorted((r for r in rows if r.family == family), key=lambda r: r.n)
        axis.plot([], [], "o-", color=color, markersize=5, linewidth=1.4, label=family)
        for r in own:
            full = color if r.recall >= floor else "white"
            axis.plot(
                [r.n], [r.p50_ms.middle], "o", color=color, markerfacecolor=full, markersize=5
            )
        law = next((g for g in laws if (g.family, g.what) == (family, "p50_ms")), None)
        if law is not None:
            ends = np.array([own[0].n, own[-1].n])
            axis.plot(ends, law.factor * ends**law.power, color=color, linewidth=1.4)
    flat = sorted((r for r in rows if r.factory == BASELINE), key=lambda r: r.n)
    axis.plot(
        [r.n for r in flat],
        [r.floor_ms for r in flat],
        color=MUTED,
        linestyle="--",
        label="reading all vectors",
    )
    axis.set(xscale="log", yscale="log", title=title, xlabel="items", ylabel="P50, ms a query")
    axis.set_xticks([r.n for r in flat])
    _plain(axis.xaxis)
    _plain(axis.yaxis)
    axis.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def costs(rows: Sequence[Row], title: str) -> Figure:
    """Memory and build time against n on log axes, by family."""
    figure, panels = axes(2, height=3.9)
    colors = dict(
        zip(dict.fromkeys(r.family for r in rows), (PALETTE[6], *PALETTE[:6], MUTED), strict=False)
    )
    for family, color in colors.items():
        own = sorted((r for r in rows if r.family == family), key=lambda r: r.n)
        panels[0].plot(
            [r.n for r in own],
            [r.bytes_a_vector * r.n / 2**20 for r in own],
            ".-",
            color=color,
            linewidth=1.3,
            label=family,
        )
        if family != BASELINE:
            panels[1].plot(
                [r.n for r in own], [r.build_s for r in own], ".-", color=color, linewidth=1.3
            )
    for axis, label in zip(panels, ("index, MiB", "building, s"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="items", ylabel=label)
        axis.set_xticks(sorted({r.n for r in rows if r.factory == BASELINE}))
        axis.tick_params(axis="x", labelsize=8)
        _plain(axis.xaxis)
        _plain(axis.yaxis)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8.5
    )
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    return figure


def _generators(axis: Axes, family: str, judged: Sequence[Judged], named: bool) -> None:
    axis.set_title(family)
    axis.set_ylim(-0.6, len(judged) - 0.4)
    axis.set_yticks(range(len(judged)))
    axis.set_yticklabels([j.generator for j in judged][::-1] if named else [])
    axis.xaxis.set_major_locator(ticker.MaxNLocator(3))
    axis.tick_params(axis="x", labelsize=9)


def _color(generator: str) -> str:
    return _COLORS.get(generator, PALETTE[2])


def _plain(axis: Axes) -> None:
    def number(x: float, _: int) -> str:
        for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if x >= size:
                return f"{x / size:.3g}{letter}"
        return f"{x:g}"

    axis.set_major_formatter(ticker.FuncFormatter(number))
    axis.set_minor_formatter(ticker.NullFormatter())
