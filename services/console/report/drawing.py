"""What a section of the report is made of, and the look that all figures share."""

from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# The colours of Okabe and Ito, which colour-blind readers tell apart, and greys that print.
INK, SOFT, FAINT = "#1f2933", "#8a94a0", "#e4e7eb"
ACCENT, GOOD, THIRD, FOURTH = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
CATEGORIES = (ACCENT, GOOD, THIRD, FOURTH, "#56b4e9", "#e69f00", "#7a6a00", "#4d4d4d")
MAP = "viridis_r"  # the best are dark, which stands out on paper
WIDTH = 6.8  # inches of a text column


@dataclass(frozen=True)
class Drawing:
    """One figure: its file name, title, caption, the drawing or why there is none, and the table behind it."""

    name: str
    title: str
    caption: str
    figure: Figure | None
    header: tuple[str, ...] = ()
    cells: tuple[tuple[object, ...], ...] = ()
    missing: str = ""


def missing(name: str, title: str, why: str) -> Drawing:
    """A figure that cannot be drawn, and why not."""
    return Drawing(name, title, "", None, missing=why)


def new_axes(x: str, y: str, height: float = 3.6) -> tuple[Figure, Axes]:
    """An empty figure with its axes named."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    plain(axes)
    return figure, axes


def plain(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    """The frame and the grid that all figures have."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(axis=grid, color=FAINT, lw=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
