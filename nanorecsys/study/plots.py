"""House style for figures: one palette that survives colour blindness and grey print."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib_inline.backend_inline import set_matplotlib_formats

STYLE = Path(__file__).with_name("nanorecsys.mplstyle")
# Okabe and Ito (2008), "Color Universal Design", ordered so that neighbours differ in lightness;
# the style sheet has the same colours.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
INK = "#222222"
MUTED = "#6B6B6B"


def use_house_style() -> None:
    """Set the style sheet of the book; figures keep a light face in dark mode.

    The book shows the SVG. JupyterLab shows the PNG until the reader trusts the notebook.
    """
    set_matplotlib_formats("svg", "png")
    plt.style.use(STYLE)


def direct_label(
    axis: Axes, x: Any, y: float, text: str, color: str, dx: float = 6, dy: float = 0
) -> None:
    """Name a line beside one of its points, in its colour, instead of in a legend.

    Args:
        axis: Panel of the line.
        x: Abscissa of the point, as the axis takes it.
        y: Ordinate of the point.
        text: Name of the line.
        color: Colour of the line.
        dx: Offset to the right in typographic points; a negative one puts the text to the left.
        dy: Offset upwards in typographic points.
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
