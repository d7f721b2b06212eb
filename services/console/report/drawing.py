"""What a section of the report is made of, and the look that all figures share."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, SOFT, ACCENT, GOOD = "#1f2933", "#9aa5b1", "#2563a8", "#c2541b"


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


def new_axes(x: str, y: str) -> tuple[Figure, Axes]:
    """An empty figure with its axes named."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e7eb", lw=0.8)
    return figure, axes
