"""The figure of the summary."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import matplotlib.ticker as ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanorecsys.study.plots import INK, PALETTE
from nanorecsys.study.records import Record

# Narrow, so that its letters keep their size on a phone.
_WIDTH, _ROW, _REST = 4.6, 0.34, 1.1
# The ladder's names where they say too little away from its chapter.
_NAMES = {
    "torch": "PyTorch, padded",
    "ONNX": "ONNX Runtime",
    "last position": "last position only",
    "fused": "fused operators",
    "pool": "compute thread",
    "cache": "answer cache",
    "index": "chosen index",
}


@dataclass(frozen=True)
class Picture:
    """A figure inside its page, with what a reader who cannot see it is told: glue shows it on any page that way.

    `figure` is None where there is nothing to draw; the caption then says why.
    """

    figure: Figure | None
    alt: str
    caption: str

    def _repr_html_(self) -> str:
        if self.figure is None:
            return f"<p>{html.escape(self.caption)}</p>"
        drawn = io.BytesIO()
        self.figure.savefig(drawn, format="svg", metadata={"Date": None})
        source = f"data:image/svg+xml;base64,{base64.b64encode(drawn.getvalue()).decode()}"
        image = f'<img src="{source}" alt="{html.escape(self.alt)}" style="max-width: 100%; height: auto">'
        return f"<figure>\n{image}\n<figcaption><p>{html.escape(self.caption)}</p></figcaption>\n</figure>"


def picture(record: Record[Any] | None) -> Picture:
    """What each change of the load test bought, from its record; a sentence in its place where it has not run."""
    if record is None:
        return Picture(
            None, "", "The load test has not run here: nanorecsys run PROFILE --only 06_loadtest."
        )
    r = record.result
    figure = what_each_change_bought(r.ladder, r.highest and r.highest.offered_per_s)
    plt.close(figure)
    alt = (
        "CPU milliseconds a request falling and the highest rate rising from eager PyTorch to the final server, a "
        "point for each change, both on log axes."
    )
    return Picture(figure, alt, bought_caption(record))


def what_each_change_bought(rungs: Sequence[Any], confirmed_per_s: float | None) -> Figure:
    """CPU ms a request and the highest rate after each change, log axes, every point labelled.

    Args:
        rungs: of the load test's ladder, from eager PyTorch to the final server.
        confirmed_per_s: the final server's highest rate after a longer search, a row of its own;
            None for none.
    """
    names = [_NAMES.get(r.name, r.name) for r in rungs]
    names = [name if row == 0 else f"+ {name}" for row, name in enumerate(names)]
    rates = [r.highest_per_s for r in rungs]
    if confirmed_per_s:
        names.append("searched longer")
        rates.append(confirmed_per_s)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(_WIDTH, _REST + _ROW * len(names)), sharey=True
    )
    _points(left, [r.cpu_ms for r in rungs], PALETTE[0], "CPU ms a request", lambda v: f"{v:.1f}")
    _points(right, rates, PALETTE[5], "requests/s", lambda v: f"{v:,.0f}")
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    return figure


def bought_caption(record: Record[Any]) -> str:
    """What `what_each_change_bought` shows, with the load, the bound and the machine, from the load test's record."""
    r, p, m = record.result, record.parameters, record.provenance.machine
    rates = (
        f"; the highest rate with a P99 of at most {r.p99_bound_ms:g} ms, found for each by {p['ladder_tries']} "
        f"tries of {p['ladder_try_s']:g} s"
        if p["ladder_tries"]
        else ""
    )
    longer = (
        f"; the last server's again, confirmed over {r.highest.seconds:.0f} s" if r.highest else ""
    )
    return (
        f"What each change bought, each on top of those above. CPU time of a request at {p['ladder_rate']:g} requests "
        f"a second for {p['ladder_s']:g} s{rates}{longer}. {r.cold_share:.0%} of requests cold; server and "
        f"generator share {m.cores} cores of {m.processor}."
    )


def _points(axis: Axes, values: Sequence[float | None], color: str, title: str, show: Any) -> None:
    """A line down the rungs, its points labelled on the side where the axis has room."""
    places = [(value, row) for row, value in enumerate(values) if value]
    axis.set_title(title, color=color, fontweight="bold", fontsize=10)
    axis.set_xscale("log")
    axis.grid(False, axis="y")
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    if not places:
        return
    axis.plot(*zip(*places, strict=True), "o-", color=color, markersize=6, linewidth=1.5)
    for value, row in places:
        axis.annotate(
            show(value),
            (value, row),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            color=INK,
        )
    low, high = min(v for v, _ in places), max(v for v, _ in places)
    span = max(high / low, 2.0)
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0) if span < 15 else (1.0,)))
    axis.set_xlim(
        low / span**0.12, high * span**0.45
    )  # to the right of the largest there is room for its label
