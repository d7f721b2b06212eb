"""A run as the report reads it, and the tables of the paper."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from services.archive.scoring import task_means
from services.contracts import candidate_pb2 as pb
from services.contracts.archive_pb2 import RunStatus
from services.domain.statistics import Line
from services.report.comparisons import Trained
from services.report.rows import Row, by_number, final_train_loss, gain_over, name_of, root_among, row


@dataclass(frozen=True)
class Dataset:
    """The data of all figures."""

    status: RunStatus
    unordered: Sequence[pb.Candidate]
    sizes: Sequence[Trained] = ()  # trainings at other sizes
    ablated: Sequence[Trained] = ()  # of programs without one part

    @cached_property
    def records(self) -> list[pb.Candidate]:
        """All candidates in the order of the run."""
        return by_number(self.unordered)

    @cached_property
    def root(self) -> pb.Candidate | None:
        """The first baseline, if it was measured."""
        return root_among(self.records, self.status.settings)

    @cached_property
    def rows(self) -> list[Row]:
        """One row per candidate."""
        return [row(record, self.root) for record in self.records]

    @cached_property
    def measured(self) -> list[pb.Candidate]:
        """Candidates with at least one training curve or score."""
        return [record for record in self.records if record.training.seeds]

    @cached_property
    def scored(self) -> list[pb.Candidate]:
        """Candidates with a fitness, in order, without ablations."""
        competing = (record for record in self.records if record.kind != pb.KIND_ABLATION)
        return [record for record in competing if record.verdict.HasField("fitness")]

    @cached_property
    def ranked(self) -> list[pb.Candidate]:
        return sorted(self.scored, key=lambda record: (-record.verdict.fitness.value, record.request.number))


# The colours of Okabe and Ito, which colour-blind readers can distinguish, and greys that print.
INK, SOFT, FAINT = "#1f2933", "#8a94a0", "#e4e7eb"
ACCENT, GOOD, THIRD, FOURTH = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
CATEGORIES = (ACCENT, GOOD, THIRD, FOURTH, "#56b4e9", "#e69f00", "#7a6a00", "#4d4d4d")
MAP = "viridis_r"  # the best are dark, which stands out on paper
WIDTH = 6.8  # inches of a text column


@dataclass(frozen=True)
class Drawing:
    """One figure: its file name, title, caption, drawing (or the reason why there is none) and data. The page shows the
    data as a table if there is no drawing, or in addition with `tabulated`."""

    name: str
    title: str
    caption: str
    figure: Figure | None
    header: tuple[str, ...] = ()
    cells: tuple[tuple[object, ...], ...] = ()
    missing: str = ""
    tabulated: bool = False


def missing(name: str, title: str, why: str) -> Drawing:
    """A figure that cannot be drawn, with the reason."""
    return Drawing(name, title, "", None, missing=why)


def new_axes(x: str, y: str, height: float = 3.6) -> tuple[Figure, Axes]:
    """An empty figure with its axes named."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, x, y)
    return figure, axes


def style_axes(axes: Axes, x: str = "", y: str = "", title: str = "", grid: Literal["x", "y"] = "y") -> None:
    """Labels and title, and the frame and the grid of all figures."""
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=9, color=INK, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(axis=grid, color=FAINT, lw=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)


def spread(heights: Sequence[float], distance: float, limit: float) -> list[float]:
    """Ascending heights of labels within ±limit, moved until neighbours are `distance` apart."""
    moved: list[float] = []
    for index, height in enumerate(heights):
        after = (len(heights) - 1 - index) * distance
        lowest = moved[-1] + distance if moved else -limit
        moved.append(max(lowest, min(height, limit - after)))
    return moved


def style_counts(axes: Axes) -> None:
    """Whole numbers that grow from zero, with a legend."""
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8, loc="upper left")


BAND_POINTS = 60


def draw_line(axes: Axes, line: Line, start: float, end: float, unit: float = 1.0) -> None:
    """A least-squares line of counts with its 95 % band, if it has one, over an axis in `unit`."""
    xs = [start + (end - start) * index / BAND_POINTS for index in range(BAND_POINTS + 1)]
    at, bands = [x / unit for x in xs], [band for x in xs if (band := line.band(x)) is not None]
    axes.plot(at, [line.at(x) for x in xs], color=GOOD, lw=1.3, ls="--", label="least squares")
    if len(bands) == len(xs):
        low, high = [max(0.0, band.low) for band in bands], [band.high for band in bands]
        axes.fill_between(at, low, high, color=GOOD, alpha=0.15, lw=0, label="95 % band of the line")


MAX_MODELS, MAX_COMPONENTS = 30, 40
MIN_TAGGED, MIN_GROUP = 12, 5
ORIGINS = ("analysis", "cognition", "original")


def benchmarks(data: Dataset) -> Drawing:
    """Models and their scores; differences refer to the root."""
    name, title = "tables-1-2-benchmarks", "Tables 1 and 2 · Models and benchmarks"
    models = [record for record in data.ranked if record.training.seeds][:MAX_MODELS]
    if not models:
        return missing(name, title, "no measured candidate has a fitness")
    tasks = list(dict.fromkeys(score.task for model in models for score in model.training.seeds[0].scores))
    rows, cells = {row["id"]: row for row in data.rows}, []
    for model in models:
        values, scores, gain = rows[model.id], task_means(model), gain_over(data.root, model)
        cells.append((
            model.id, name_of(model), values["loss"], values["loss_difference"],
            -gain.interval.high if gain else None, -gain.interval.low if gain else None, final_train_loss(model),
            *map(scores.get, tasks), values["benchmark"], values["judge"], values["parameters"] or None,
            values["fitness"], values["fitness_low"], values["fitness_high"],
        ))  # fmt: skip
    header = (
        "id", "name", "loss", "Δ root", "Δ low", "Δ high", "train loss", *tasks, "mean", "judge", "parameters",
        "fitness", "low", "high",
    )  # fmt: skip
    filled = [index for index in range(len(header)) if any(row[index] is not None for row in cells)]
    header = tuple(header[index] for index in filled)
    caption = f"The best {len(models)} of {len(data.ranked)} scored, best first; bold is the best of a column."
    if "Δ low" in header:
        caption += (
            " Δ low and Δ high bound the difference to the root at 95 %, paired by seed and held-out block; with one "
            "seed they do not cover other seeds."
        )
    return Drawing(name, title, caption, None, header, tuple(tuple(row[index] for index in filled) for row in cells))


def components(data: Dataset) -> Drawing:
    """Components of the best quarter and of the others, with the difference of fitness with and without each."""
    name, title = "figure-7-components", "Figure 7 · Components of the best against all others"
    tagged = [record for record in data.ranked if _components(record) and record.kind != pb.KIND_ABLATION]
    if len(tagged) < MIN_TAGGED:
        return missing(name, title, f"{len(tagged)} scored candidates have components, of {MIN_TAGGED} needed")
    cut = max(MIN_GROUP, len(tagged) // 4)
    best, others = tagged[:cut], tagged[cut:]
    counts = Counter(kind for record in tagged for kind in _components(record))
    cells = []
    for kind, count in counts.most_common(MAX_COMPONENTS):
        having = [record for record in tagged if kind in _components(record)]
        lacking = [record for record in tagged if kind not in _components(record)]
        difference = _welch(*([record.verdict.fitness.value for record in group] for group in (having, lacking)))
        cells.append((
            kind, count, len(lacking),
            *_share(sum(kind in _components(record) for record in best), len(best)),
            *_share(sum(kind in _components(other) for other in others), len(others)),
            *(difference or (None, None, None)),
        ))  # fmt: skip
    cells.sort(key=lambda row: -(row[9] if isinstance(row[9], float) else -math.inf))
    header = ("component", "n with", "n without", "best", "low", "high", "others", "low", "high", "Δ fitness", "low",
              "high")  # fmt: skip
    caption = (
        f"Shares of the best {len(best)} and of the other {len(others)} that have a component (Wilson's 95 % "
        f"intervals), and the difference of mean fitness with and without it (Welch's; groups of {MIN_GROUP} and "
        "more). The combinations were chosen by the search; `asi-arch ablate` measures one component alone."
    )
    return Drawing(name, title, caption, None, header, tuple(cells))


def origins(data: Dataset) -> Drawing:
    """Origins of ideas, for the best quarter and the others."""
    name, title = "table-3-origins", "Table 3 · Origins of ideas"
    naming = [record for record in data.ranked if record.proposal.ideas]
    if len(naming) < MIN_TAGGED:
        return missing(name, title, f"{len(naming)} scored candidates name origins of ideas, of {MIN_TAGGED} needed")
    cut = max(MIN_GROUP, len(naming) // 4)
    cells: list[tuple[object, ...]] = []
    for group, records in (("best quarter", naming[:cut]), ("others", naming[cut:])):
        counts = Counter(idea.origin for record in records for idea in record.proposal.ideas)
        total = sum(counts.values())
        cells += [
            (group, len(records), origin, counts[origin], total, *_share(counts[origin], total)) for origin in ORIGINS
        ]
    header = ("group", "candidates", "origin", "ideas", "of", "share", "low", "high")
    return Drawing(name, title, "Shares of ideas by origin, with Wilson's 95 % intervals.", None, header, tuple(cells))


PARTS: tuple[tuple[str, Callable[[pb.Candidate], bool]], ...] = (
    ("program", lambda record: bool(record.proposal.program)),
    ("motivation", lambda record: bool(record.proposal.motivation)),
    ("analysis or summary", lambda record: bool(record.analysis.results)),
    ("training curve", lambda record: any(seed.curve for seed in record.training.seeds)),
    ("held-out loss", lambda record: record.training.HasField("loss")),
    ("benchmark scores", lambda record: any(seed.scores for seed in record.training.seeds)),
    ("mean accuracy", lambda record: record.training.HasField("benchmark")),
    ("parameter count", lambda record: any(seed.measurements.parameters for seed in record.training.seeds)),
    ("training time", lambda record: any(seed.measurements.seconds for seed in record.training.seeds)),
    ("judge's score", lambda record: record.verdict.HasField("raw")),
    ("fitness", lambda record: record.verdict.HasField("fitness")),
    ("components", lambda record: bool(_components(record))),
    ("origins of ideas", lambda record: bool(record.proposal.ideas)),
)


def holdings(data: Dataset) -> Drawing:
    """The number of candidates with each part of a record."""
    count = len(data.records)
    cells = [(part, present := sum(map(holds, data.records)), present / count) for part, holds in PARTS]
    caption = f"Of {count} candidates; absent values were not measured or not published, and are never imputed."
    return Drawing("holdings", "Contents of the records", caption, None, ("part", "n", "share"), tuple(cells))


def _components(record: pb.Candidate) -> list[str]:
    return list(record.analysis.components) or list(record.proposal.components)


def _share(count: int, total: int) -> tuple[float, float, float]:
    """A share with Wilson's 95 % interval."""
    from scipy.stats import binomtest  # importing it takes a second

    interval = binomtest(count, total).proportion_ci(method="wilson")
    return count / total, float(interval.low), float(interval.high)


def _welch(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float] | None:
    """The difference of the means with Welch's 95 % interval; None for groups that are too small or do not vary."""
    if min(len(ours), len(theirs)) < MIN_GROUP or (min(ours) == max(ours) and min(theirs) == max(theirs)):
        return None
    from scipy.stats import ttest_ind

    interval = ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    return fmean(ours) - fmean(theirs), float(interval.low), float(interval.high)
