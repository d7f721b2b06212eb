"""A run as the report reads it: candidates by number, None for what was not measured; and what a section is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from services.console.commands.sizes import Trained
from services.console.rows import Row, row
from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb


@dataclass(frozen=True)
class Dataset:
    """Everything the figures draw from."""

    status: archive_pb2.RunStatus
    records: tuple[pb.Candidate, ...]  # by number
    sizes: tuple[Trained, ...] = ()  # trainings at other sizes

    @classmethod
    def of(
        cls, status: archive_pb2.RunStatus, records: Sequence[pb.Candidate], sizes: Sequence[Trained] = ()
    ) -> "Dataset":
        """Ordered by number."""
        return cls(status, tuple(sorted(records, key=lambda one: (one.request.number, one.id))), tuple(sizes))

    @cached_property
    def root(self) -> pb.Candidate | None:
        """The first baseline, if it was measured."""
        names = self.status.settings.baselines
        for record in self.records:
            if names and record.request.baseline == names[0] and record.training.HasField("loss"):
                return record
        return None

    @cached_property
    def rows(self) -> list[Row]:
        """One row per candidate."""
        loss = self.root.training.loss if self.root is not None else None
        return [row(record, loss) for record in self.records]

    @cached_property
    def measured(self) -> list[pb.Candidate]:
        """Candidates with at least one training curve or score."""
        return [record for record in self.records if record.training.seeds]

    @cached_property
    def scored(self) -> list[pb.Candidate]:
        """Candidates with a fitness, in order; ablations answer a question and do not compete."""
        return [
            record for record in self.records if record.verdict.HasField("fitness") and record.kind != pb.KIND_ABLATION
        ]

    @cached_property
    def ranked(self) -> list[pb.Candidate]:
        """The scored ones, best first."""
        return sorted(self.scored, key=lambda one: (-one.verdict.fitness.value, one.request.number))


def seconds_of(record: pb.Candidate) -> float:
    """Seconds of training and evaluation of all seeds."""
    return sum(seed.measurements.seconds for seed in record.training.seeds)


def name_of(record: pb.Candidate) -> str:
    """The name, or the id where there is none."""
    return record.proposal.name or record.request.baseline or record.id


def final_train_loss(record: pb.Candidate) -> float | None:
    """The last recorded training loss, averaged over seeds; None where no curve was kept."""
    ends = [seed.curve[-1].train_loss for seed in record.training.seeds if seed.curve]
    known = [seed.curve[-1].HasField("train_loss") for seed in record.training.seeds if seed.curve]
    return fmean(ends) if ends and all(known) else None


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
