"""Figures of a run against its order and its compute, of its moves and ablations, and of early stopping."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from statistics import fmean, quantiles

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from services.archive.scoring import benchmark_of, costs_of_record, loss_of, objectives_of
from services.contracts import candidate_pb2 as pb
from services.domain.statistics import linear_fit
from services.report.compute import replay_row, replays, too_few
from services.report.dataset import (
    ACCENT,
    CATEGORIES,
    GOOD,
    INK,
    SOFT,
    THIRD,
    WIDTH,
    Dataset,
    Drawing,
    draw_line,
    missing,
    new_axes,
    style_axes,
    style_counts,
)
from services.report.rows import final_train_loss, label_of, mean_curves, name_of, progress_of, seconds_of

BLOCK = 50
MIN_COUNTED, MIN_FITTED = 10, 5
MIN_BLOCKS, MIN_IN_BLOCK = 3, 5
STRONG_CURVES, MAX_CURVES = 5, 400
MAX_ROWS = 30


def count_against_compute(data: Dataset) -> Drawing:
    """The cumulative count of candidates better than the root against compute, with a least-squares line."""
    name, title = "figure-1-count", "Figure 1 · Candidates better than the root against compute"
    is_better, meaning = _better_than_root(data)
    if is_better is None:
        return missing(name, title, meaning)
    searched = [record for record in data.records if record.kind in (pb.KIND_PROPOSAL, pb.KIND_IMPORTED)]
    scored = [record for record in searched if is_better(record) is not None]
    if len(scored) < MIN_COUNTED:
        why = f"{len(scored)} candidates can be compared with the root, of {MIN_COUNTED} needed"
        return missing(name, title, why)
    hours = sum(seconds_of(record) for record in data.measured) / 3600
    spent, count, points = 0.0, 0, []
    for index, record in enumerate(searched, 1):
        spent += seconds_of(record) / 3600
        count += bool(is_better(record))
        points.append((record.id, spent if hours else float(index), count))
    x = "compute spent (hours of training and evaluation)" if hours else "candidates in the order of the run"
    figure, axes = new_axes(x, "candidates better than the root")
    xs, counts = [at for _, at, _ in points], [float(number) for _, _, number in points]
    axes.step([0.0, *xs], [0.0, *counts], where="post", color=ACCENT, lw=2, label="counted")
    if count >= MIN_FITTED:
        line = linear_fit(xs, counts)
        draw_line(axes, line, xs[0], xs[-1])
        unit = "hour" if hours else "candidate"
        remark = f"The line rises by {line.slope:.3g} per {unit}; its band treats cumulative counts as independent."
    else:
        remark = f"No line: {count} of {MIN_FITTED} candidates that a fit needs."
    style_counts(axes)
    without = "" if hours else " The records hold no compute, so the axis counts candidates."
    caption = (
        f"{count} of {len(scored)} candidates: {meaning}. Single measurements are compared, so some of them are "
        f"better by chance; the discovery curve counts confirmed ones. {remark}{without}"
    )
    return Drawing(name, title, caption, figure, ("id", x, "better"), tuple(points))


def _better_than_root(data: Dataset) -> tuple[Callable[[pb.Candidate], bool | None] | None, str]:
    """A test whether a candidate is better than the root (None: unknown), and its description; or None and a reason."""
    root = data.root
    if root is not None and root.training.HasField("benchmark"):
        loss, benchmark = root.training.loss, root.training.benchmark

        def both(record: pb.Candidate) -> bool | None:
            if not record.training.HasField("loss") or not record.training.HasField("benchmark"):
                return None
            return record.training.loss < loss and record.training.benchmark > benchmark

        return both, f"lower held-out loss and higher mean accuracy than {name_of(root)}"
    first = next((record for record in data.scored if not record.proposal.parent), None)
    if first is None:
        return None, "no root has a score to compare with"
    score = first.verdict.fitness.value

    def higher(record: pb.Candidate) -> bool | None:
        scored = record.verdict.HasField("fitness") and record.id != first.id
        return record.verdict.fitness.value > score if scored else None

    return higher, f"a score above {name_of(first)}'s {score:.3f}"


def trends(data: Dataset) -> Drawing:
    """Every score over the run, with the spread inside each block."""
    name, title = "score-trend", "Trend of the scores"
    records = [record for record in data.records if record.kind != pb.KIND_ABLATION]
    series: list[tuple[str, list[tuple[int, float]]]] = []
    for label, value in SCORES:
        values = [(record.request.number, score) for record in records if (score := value(record)) is not None]
        if len(values) >= MIN_BLOCKS * MIN_IN_BLOCK:
            series.append((label, values))
    if not series:
        needed = MIN_BLOCKS * MIN_IN_BLOCK
        return missing(name, title, f"no score is known for {needed} candidates, which {MIN_BLOCKS} blocks need")
    columns = min(3, len(series)) if len(series) % 2 else 2
    lines = -(-len(series) // columns)
    figure = Figure(figsize=(WIDTH, 2.5 * lines + 0.3), layout="constrained")
    cells: list[tuple[object, ...]] = []
    for index, (label, values) in enumerate(series, 1):
        axes = figure.add_subplot(lines, columns, index)
        cells += _trend(axes, label, values)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    caption = (
        "Mean of each block of candidates, the middle half and the middle four fifths of them (bands), and the best so "
        f"far (line). {'; '.join(f'{label}: n = {len(values)}' for label, values in series)}."
    )
    header = ("score", "up to candidate", "n", "mean", "10 %", "25 %", "75 %", "90 %")
    return Drawing(name, title, caption, figure, header, tuple(cells))


SCORES: tuple[tuple[str, Callable[[pb.Candidate], float | None]], ...] = (
    ("fitness", lambda record: record.verdict.fitness.value if record.verdict.HasField("fitness") else None),
    ("held-out loss", loss_of),
    ("final training loss", final_train_loss),
    ("mean accuracy", benchmark_of),
    ("judge", lambda record: record.verdict.raw if record.verdict.HasField("raw") else None),
)


def _trend(axes: Axes, label: str, points: Sequence[tuple[int, float]]) -> list[tuple[object, ...]]:
    size = BLOCK if len(points) >= MIN_BLOCKS * BLOCK else max(MIN_IN_BLOCK, len(points) // 6)
    blocks = [points[start : start + size] for start in range(0, len(points) - size + 1, size)]
    rows: list[tuple[str, int, int, float, float, float, float, float]] = []
    for block in blocks:
        values = [value for _, value in block]
        tenths = quantiles(values, n=20, method="inclusive")
        rows.append((label, block[-1][0], len(block), fmean(values), tenths[1], tenths[4], tenths[14], tenths[17]))
    xs = [row[1] for row in rows]
    for low, high, alpha, share in ((4, 7, 0.12, "middle four fifths"), (5, 6, 0.22, "middle half")):
        below, above = ([float(row[at]) for row in rows] for at in (low, high))
        axes.fill_between(xs, below, above, color=ACCENT, alpha=alpha, lw=0, label=share)
    axes.plot(xs, [row[3] for row in rows], color=ACCENT, lw=2, label="mean of a block")
    pick = min if "loss" in label else max
    bests = accumulate((value for _, value in points), pick)
    shown = [(number, value) for (number, _), value in zip(points, bests, strict=True) if number >= xs[0]]
    axes.step(
        [at for at, _ in shown], [value for _, value in shown], where="post", color=GOOD, lw=1.2, label="best so far"
    )
    ends = [*(row[4] for row in rows), *(row[7] for row in rows), *(value for _, value in shown)]
    room = 0.04 * (max(ends) - min(ends))
    if room:
        axes.set_ylim(min(ends) - room, max(ends) + room)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    style_axes(axes, "candidates", title=f"{label} (n = {len(points)})")
    return list[tuple[object, ...]](rows)


def front(data: Dataset) -> Drawing:
    """The first objective against each of the others, with the front, and the hypervolume over the run."""
    name, title = "front", "Several objectives · the front and its hypervolume"
    objectives = objectives_of(data.status.settings)
    if not objectives:
        return missing(name, title, "the run has one objective; --policy objectives=loss,parameters gives it two")
    labels = [f"{objective.name} ({objective.unit})" if objective.unit else objective.name for objective in objectives]
    *first, last_name = [objective.name for objective in objectives]
    progress = progress_of(data.records, data.status.settings)
    if progress is None or not progress.volumes:
        return missing(name, title, "no baseline is measured in all objectives of the run")
    measured = [
        (index, record, [objective.value(cost) for objective, cost in zip(objectives, costs, strict=True)])
        for index, record in enumerate(data.records)
        if (costs := costs_of_record(record, data.status.settings)) is not None
    ]
    lines, columns = (1, 3) if len(objectives) == 3 else ((len(objectives) + 1) // 2, 2)
    figure = Figure(figsize=(WIDTH, 2.9 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, axis in zip(panels, range(1, len(objectives)), strict=False):
        for on_front, colour, size in ((False, SOFT, 14), (True, GOOD, 30)):
            shown = [values for index, _, values in measured if (index in progress.front) is on_front]
            axes.scatter([values[axis] for values in shown], [values[0] for values in shown], s=size, color=colour,
                         label="on the front" if on_front else "dominated", zorder=2 + on_front)  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        style_axes(axes, labels[axis], labels[0])
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=2, frameon=False, fontsize=8)
    last = panels[len(objectives) - 1]
    counts, volumes = zip(*((index + 1, volume) for index, volume in progress.volumes), strict=True)
    last.step([*counts, len(data.records)], [*volumes, volumes[-1]], where="post", color=ACCENT, lw=2)
    last.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    style_axes(last, "candidates", "share of the box dominated")
    for unused in panels[len(objectives) :]:
        unused.set_visible(False)
    caption = (
        f"{len(progress.front)} of {len(measured)} candidates are dominated by no other in "
        f"{', '.join(first)} and {last_name}. The hypervolume is the share of the box between zero "
        "and the worst baseline in each objective; it ends at "
        f"{volumes[-1]:.4g}. Speed counts as seconds per token and a benchmark as its error. Single "
        "measurements are compared, so some candidates are on the front by chance."
    )
    header = ("id", "name", *(objective.name for objective in objectives), "on the front")
    cells = tuple(
        (
            record.id,
            name_of(record),
            *(int(value) if value.is_integer() else value for value in values),
            "yes" if index in progress.front else "no",
        )
        for index, record, values in sorted(measured, key=lambda row: (row[0] not in progress.front, row[2][0]))
    )
    return Drawing(name, title, caption, figure, header, cells, tabulated=len(cells) <= MAX_ROWS)


def pool_over_time(data: Dataset) -> Drawing:
    """Loss, accuracy and fitness of the best candidates over the run."""
    name, title = "figure-6-pool", "Figure 6 · The pool over time"
    scored = [
        record for record in data.scored if record.training.HasField("loss") and record.training.HasField("benchmark")
    ]
    size = max(1, data.status.settings.pool.size or 50)
    if len(scored) < size + MIN_COUNTED:
        needed = size + MIN_COUNTED
        why = f"{len(scored)} candidates have loss, accuracy and fitness, of {needed} that a pool of {size} needs"
        return missing(name, title, why)
    step = BLOCK if len(scored) >= 4 * BLOCK else 1
    cells = []
    for count in range(max(step, size), len(scored) + 1, step):
        best = sorted(scored[:count], key=lambda record: -record.verdict.fitness.value)[:size]
        scores = ((record.training.loss, record.training.benchmark, record.verdict.fitness.value) for record in best)
        cells.append((count, *map(fmean, zip(*scores, strict=True))))
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    for number, (label, column) in enumerate((("mean loss", 1), ("mean accuracy", 2), ("mean fitness", 3)), 1):
        axes = figure.add_subplot(1, 3, number)
        axes.plot([cell[0] for cell in cells], [cell[column] for cell in cells], color=CATEGORIES[number - 1], lw=2)
        style_axes(axes, "scored candidates", title=label)
    caption = f"Means over the best {size} candidates so far, after every {step}."
    return Drawing(name, title, caption, figure, ("scored", "loss", "benchmark", "fitness"), tuple(cells))


def parameter_counts(data: Dataset) -> Drawing:
    """Parameter counts by block of the run, the root's as a line."""
    name, title = "figure-8-parameters", "Figure 8 · Parameters by block of experiments"
    counted = [(record, record.training.seeds[0].measurements.parameters) for record in data.measured]
    counted = [(record, count) for record, count in counted if count]
    if len(counted) < 2 * MIN_IN_BLOCK:
        return missing(name, title, f"{len(counted)} parameter counts are known, of {2 * MIN_IN_BLOCK} needed")
    size = BLOCK if len(counted) >= 2 * BLOCK else max(MIN_IN_BLOCK, len(counted) // 4)
    starts = [start for start in range(0, len(counted), size) if len(counted) - start >= MIN_IN_BLOCK]
    blocks = [[count for _, count in counted[start : start + size]] for start in starts]
    scale, unit = (1e6, "millions") if max(count for _, count in counted) > 5e6 else (1e3, "thousands")
    figure, axes = new_axes("block of experiments", f"parameters ({unit})", height=3)
    axes.boxplot([[count / scale for count in block] for block in blocks], widths=0.5,
                 medianprops={"color": GOOD, "lw": 1.5}, flierprops={"markersize": 3})  # fmt: skip
    if data.root is not None and (own := data.root.training.seeds[0].measurements.parameters):
        axes.axhline(own / scale, color=THIRD, lw=1, ls="--", label=f"{label_of(data.root)}, the root")
        axes.legend(frameon=False, fontsize=8)
    labels = [f"{start + 1}–{min(start + size, len(counted))}" for start in starts]
    axes.set_xticks(range(1, len(blocks) + 1), labels)
    cells = tuple((record.id, name_of(record), count) for record, count in counted)
    caption = f"Boxes: quartiles; line: median; n = {len(counted)} of {len(data.records)} candidates."
    return Drawing(name, title, caption, figure, ("id", "name", "parameters"), cells)


def curves(data: Dataset) -> Drawing:
    """All training curves faint, the best strong, controls dashed."""
    name, title = "curves", "Training curves"
    drawn = {record.id: (record, points) for record in data.measured if len(points := mean_curves(record)["train"]) > 1}
    if len(drawn) < 2:
        return missing(name, title, f"{len(drawn)} training curves were recorded, of 2 that a comparison needs")
    figure, axes = new_axes("steps", "training loss (nats per token)", 4.4)
    faint = [points for _, points in list(drawn.values())[:MAX_CURVES]]
    axes.add_collection(LineCollection(faint, colors=SOFT, linewidths=0.7, alpha=min(0.6, 12 / len(faint) + 0.15)))
    controls = [record for record, _ in drawn.values() if record.kind == pb.KIND_BASELINE][:4]
    strong = [record for record in data.ranked if record.id in drawn and record.kind != pb.KIND_BASELINE][
        :STRONG_CURVES
    ]
    for index, record in enumerate(strong):
        steps, losses = zip(*drawn[record.id][1], strict=True)
        axes.plot(steps, losses, lw=1.8, color=CATEGORIES[index], label=label_of(record))
    for index, record in enumerate(controls):
        steps, losses = zip(*drawn[record.id][1], strict=True)
        axes.plot(steps, losses, lw=1.3, ls=("--", ":", "-.", (0, (1, 3)))[index], color=INK, label=label_of(record))
    every = [loss for _, points in drawn.values() for _, loss in points[len(points) // 5 :]]
    low, high = min(every), max(every)
    axes.set_ylim(low - 0.05 * (high - low), high + 0.15 * (high - low))
    axes.margins(x=0.01)
    axes.autoscale(axis="x")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    cells = tuple((record.id, step, loss) for record, points in drawn.values() for step, loss in points)
    caption = (
        f"n = {len(drawn)}, each the mean over its seeds. Grey: all; coloured: the {len(strong)} best by fitness"
        + ("; dashed: controls." if controls else ".")
        + " The beginning is above the axis."
    )
    return Drawing(name, title, caption, figure, ("id", "step", "loss"), cells)


def stopping(data: Dataset) -> Drawing:
    """Compute saved and finalists lost against the step at which trainings are stopped."""
    name, title = "stopping", "Early stopping · Replayed over this run"
    rules = replays(data.records)
    if not rules:
        return missing(name, title, too_few(data.records))
    rows = [replay_row(rule) for rule in rules]
    count, finalists = rules[0].trainings, len(rules[0].replay.finalists)
    caption = (
        f"{count} whole trainings in their order, each judged by the earlier ones alone: extrapolation from the loss "
        "there and its fall since half that way (line), quantiles at a quarter and at half of the steps (level lines). "
        f"Finalists are the {finalists} with the lowest held-out loss. Trainings that the run stopped are left out."
    )
    figure, axes = new_axes("trainings are stopped at (% of their steps)", "%")
    shares = [(rule.fraction, 100 * rule.replay.saved, 100 * len(rule.replay.lost) / finalists) for rule in rules]
    percentages, saved, lost = zip(*((100 * at, *share) for at, *share in shares if at is not None), strict=True)
    axes.plot(percentages, saved, color=ACCENT, lw=2, marker="o", label="compute saved by extrapolation")
    axes.plot(percentages, lost, color=GOOD, lw=2, marker="s", ls="--", label="finalists lost")
    for fraction, saved_share, lost_share in shares:
        if fraction is None:
            axes.axhline(saved_share, color=ACCENT, lw=1, label="compute saved by quantiles")
            axes.axhline(lost_share, color=GOOD, lw=1, ls="--", label="finalists lost")
    axes.set_ylim(-3, max(60.0, *(share for _, _, share in shares)) + 3)
    axes.set_xticks(percentages)
    axes.legend(frameon=False)
    return Drawing(name, title, caption, figure, tuple(rows[0]), tuple(tuple(row.values()) for row in rows))
