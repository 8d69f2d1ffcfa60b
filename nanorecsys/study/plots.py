"""House style for figures: one palette that survives colour blindness and grey print, an opaque light face, SVG."""

from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats

# Okabe and Ito (2008), "Color Universal Design", ordered so that neighbours also differ in
# lightness.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
INK = "#222222"
MUTED = "#6B6B6B"


def use_house_style() -> None:
    """Set matplotlib's defaults for the book; figures keep a light face, readable in dark mode too."""
    set_matplotlib_formats("svg")
    mpl.rcParams.update(
        {
            "figure.figsize": (7.0, 3.6),
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "svg.hashsalt": "nanorecsys",  # the same figure gives the same bytes
            "svg.fonttype": "path",
            "font.family": "DejaVu Sans",
            "font.size": 11,
            "axes.prop_cycle": mpl.cycler(color=PALETTE),
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 11,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#E5E5E5",
            "xtick.color": INK,
            "ytick.color": INK,
            "lines.linewidth": 2.0,
            "legend.frameon": False,
        }
    )


def axes(columns: int = 1, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """A figure of `columns` panels side by side, `height` in inches."""
    figure, panels = plt.subplots(1, columns, figsize=(7.0, height), squeeze=False)
    return figure, list(panels[0])


def direct_label(
    axis: Axes, x: Any, y: float, text: str, color: str, dx: float = 6, dy: float = 0
) -> None:
    """Name a line beside one of its points, in its colour, in place of a legend.

    Args:
        axis: the panel.
        x: of the point, as the axis takes it.
        y: of the point.
        text: the name.
        color: the line's.
        dx: points to the right of it; negative puts the text to its left.
        dy: points above it.
    """
    axis.annotate(
        text,
        (x, y),
        xytext=(dx, dy),
        textcoords="offset points",
        color=color,
        ha="left" if dx >= 0 else "right",
        va="center",
        fontweight="bold",
    )
