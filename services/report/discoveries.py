"""The report's figures of claims: verdicts, discovery curve, relations between stages, and the gallery."""

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from services.contracts import candidate_pb2 as pb
from services.domain.scaling import MIN_CORRELATED, Work, discovery_curve, partial_rank_correlation, stage_relation
from services.report import comparisons, compute
from services.report.claims import by_effect, finding_of, name_in, outcome_of
from services.report.compute import HOUR
from services.report.dataset import (
    ACCENT,
    BAND_POINTS,
    FAINT,
    GOOD,
    INK,
    SOFT,
    WIDTH,
    Dataset,
    Drawing,
    draw_line,
    missing,
    new_axes,
    spread,
    style_axes,
    style_counts,
)
from services.report.rows import bounds, label_of, name_of, seconds_of

LINES = 18  # names that fit beside a figure


def discoveries(data: Dataset) -> list[Drawing]:
    """The verdicts, the curve, and one figure for each step from stage to stage."""
    rungs = sorted({verification.rung or 1 for record in data.records for verification in record.verifications})
    baselines = {record.id for record in data.records if record.kind == pb.KIND_BASELINE}
    scaled = dict.fromkeys(trained.candidate for trained in data.sizes if trained.candidate not in baselines)
    return [
        verdicts(data),
        overview(data),
        curve(data),
        growth(data),
        *(_sizes(data.sizes, candidate) for candidate in scaled if comparisons.gains(data.sizes, candidate)),
        *(relation(data, rung) for rung in rungs or [1]),
        predictors(data),
    ]


def verdicts(data: Dataset) -> Drawing:
    """All claims that were tested."""
    name, title = "verdicts", "Claims and their verdicts"
    judged = [record for record in data.records if record.HasField("discovery")]
    if not judged:
        return missing(name, title, "no candidate was promoted to a second training")
    records = {record.id: record for record in data.records}
    cells = []
    for record in sorted(judged, key=by_effect):
        finding = finding_of(record)
        cells.append((
            record.id, name_of(record), finding.outcome.value, name_in(records, finding.control or ""),
            finding.effect, *bounds(finding.interval), len(finding.seeds), finding.p, finding.adjusted_p, finding.tried,
            finding.reason,
        ))  # fmt: skip
    header = (
        "id", "name", "verdict", "strongest control", "gain", "low", "high", "seeds", "p", "adjusted p", "tried", "why",
    )  # fmt: skip
    caption = (
        "gain: the control's held-out loss minus the candidate's (nats per token), paired over fresh seeds, on data "
        "not used for selection; low and high bound it at 95 %. p is one-sided, adjusted for those tried until then."
    )
    return Drawing(name, title, caption, None, header, tuple(cells))


def curve(data: Dataset) -> Drawing:
    """Cumulative confirmed discoveries against all compute."""
    name, title = "discovery-curve", "Discovery curve · Confirmed discoveries against compute spent"
    series = discovery_curve(list(_work(data.records)))
    tried = sum(record.HasField("discovery") for record in data.records)
    if not series.points:
        spent = f"in {series.total / HOUR:.2f} hours of training and evaluation"
        why = f"none of the claims tried ({tried}) was confirmed {spent}" if tried else f"no claim was tried {spent}"
        return missing(name, title, why)
    records = {record.id: record for record in data.records}
    cells = tuple(
        (candidate, name_in(records, candidate), spent / HOUR, count) for candidate, spent, count in series.points
    )
    figure, axes = new_axes("compute spent (hours of training and evaluation)", "confirmed discoveries")
    hours = [0.0, *(spent / HOUR for _, spent, _ in series.points), series.total / HOUR]
    counts = [0, *(count for _, _, count in series.points), len(series.points)]
    axes.step(hours, counts, where="post", color=ACCENT, lw=2, label="confirmed", zorder=3)
    axes.scatter(hours[1:-1], counts[1:-1], s=22, color=ACCENT, zorder=4)
    if series.line is not None:
        draw_line(axes, series.line, series.points[0][1], series.total, HOUR)
    style_counts(axes)
    caption = f"{len(series.points)} confirmed of {tried} claims tried, {series.total / HOUR:.2f} hours in all. "
    if series.line is None:
        caption += f"No line is drawn: {series.unfitted}."
    else:
        caption += (
            f"Least-squares line {series.line.slope * HOUR:.3g} discoveries per hour, with the 95 % band of the line. "
            "Cumulative counts are not independent, so the band underestimates the uncertainty."
        )
    return Drawing(name, title, caption, figure, ("id", "name", "hours", "discoveries"), cells)


def growth(data: Dataset) -> Drawing:
    """Candidates better than the strongest control against compute, with a fit; beside it simulated runs."""
    name, title = "discovery-scaling", "Scaling of discovery · Candidates better than the strongest control"
    try:
        series = compute.of_run(data.status.run, data.records)
    except ValueError as error:
        return missing(name, title, str(error))
    if not series.candidates:
        return missing(name, title, "no candidate was trained")
    simulated = [compute.on_the_table("bandit"), compute.on_the_table("bandit", against="delta_net")]
    all_series = (series, *simulated)
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    panels = (
        ([series], "hours of training and evaluation", f"run {data.status.run}"),
        (simulated, "trainings", "simulated on the table, mean run"),
    )
    for number, (group, x, heading) in enumerate(panels, 1):
        axes = figure.add_subplot(1, 2, number)
        for colour, entry in zip((ACCENT, GOOD), group, strict=False):
            _growth(axes, entry, colour)
        style_counts(axes)
        style_axes(axes, x, "candidates better than the control", heading)
    caption = " ".join(compute.scaling_text(entry) for entry in all_series) + (
        " Steps: counted. Dashed, with the 95 % band of the exponent: a power law of compute. Single trainings are "
        "compared with a control's mean, so a few are better by chance; the discovery curve counts "
        "what was confirmed."
    )
    cells = tuple((entry.source, at, count) for entry in all_series for run in entry.scaling.runs for at, count in run)
    return Drawing(name, title, caption, figure, ("source", "compute", "better"), cells)


def _growth(axes: Axes, series: compute.ScalingResult, colour: str) -> None:
    """The counts of one run, or the mean of several, and the power law through them."""
    fit = series.scaling
    longest, runs = max(fit.totals), len(fit.runs)
    jumps = sorted(at for run in fit.runs for at, _ in run)
    counts = [index / runs for index in range(1, len(jumps) + 1)]
    axes.step([0.0, *jumps, longest], [0.0, *counts, len(jumps) / runs], where="post", color=colour, lw=1.8,
              label=f"against {series.control.name}")  # fmt: skip
    if fit.exponent is None or fit.exponent_interval is None:
        return
    xs = [longest * index / BAND_POINTS for index in range(BAND_POINTS + 1)]
    axes.plot(xs, [fit.expected(x) for x in xs], color=colour, lw=1.2, ls="--")
    ends = [[fit.expected(x, power) for x in xs] for power in (fit.exponent_interval.low, fit.exponent_interval.high)]
    axes.fill_between(xs, ends[1], ends[0], color=colour, alpha=0.15, lw=0)


def overview(data: Dataset) -> Drawing:
    """All losses of the search by source, and the gains of the finalists."""
    name, title = "overview", "The run · Losses by source, and confirmed claims"
    proposals = [record for record in data.measured if record.kind == pb.KIND_PROPOSAL]
    groups = {
        "controls": [record for record in data.measured if record.kind == pb.KIND_BASELINE],
        "language model": [record for record in proposals if not record.proposal.moves],
        "offline search": [record for record in proposals if record.proposal.moves],
    }
    if not groups["controls"] or not proposals:
        return missing(name, title, "no proposal can be compared with a control")
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.add_subplot(1, 2, 1)
    cells: list[tuple[object, ...]] = []
    for (label, group), colour, marker in zip(groups.items(), (INK, ACCENT, GOOD), "s^o", strict=True):
        numbers, losses = [record.request.number for record in group], [record.training.loss for record in group]
        axes.scatter(numbers, losses, s=26, color=colour,
                     marker=marker, label=f"{label} ({len(group)})", zorder=3)  # fmt: skip
        cells += [(record.id, name_of(record), label, record.training.loss) for record in group]
    best = min(record.training.loss for record in groups["controls"])
    axes.axhline(best, color=INK, lw=1, ls="--", label="strongest control")
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False, fontsize=7)
    style_axes(axes, "candidate, in the order of the run", "held-out loss (nats per token)")
    _finalists(figure.add_subplot(1, 2, 2), data)
    caption = (
        f"Left: one seed each, {max(len(record.training.seeds) for record in groups['controls'])} for controls. "
        "Right: the strongest control's loss minus the finalist's, fresh seeds and unseen text, with its 95 % "
        "interval; filled if confirmed, else hollow."
    )
    return Drawing(name, title, caption, figure, ("id", "name", "by", "loss"), tuple(cells))


def _finalists(axes: Axes, data: Dataset) -> None:
    """The gain of each claim that was tested, with its interval."""
    judged = sorted((record for record in data.records if record.HasField("discovery")), key=by_effect, reverse=True)
    tested = [record for record in judged if record.discovery.HasField("interval")]
    for index, record in enumerate(tested):
        gain, reach = record.discovery.effect, record.discovery.interval.high - record.discovery.effect
        filled = outcome_of(record.discovery) == "confirmed"
        axes.errorbar([gain], [index], xerr=reach, color=ACCENT, marker="o", capsize=3,
                      markerfacecolor=ACCENT if filled else "white")  # fmt: skip
        axes.annotate(label_of(record), (0.03, index + 0.12), xycoords=("axes fraction", "data"), fontsize=8,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
    axes.axvline(0, color=INK, lw=0.8)
    axes.set(yticks=[], ylim=(-0.4, max(0.6, len(tested) - 0.4)))
    axes.locator_params(axis="x", nbins=5)
    style_axes(axes, "gain over the strongest control (nats)", grid="x")
    if not tested:
        axes.text(0.5, 0.5, "no claim was tested", transform=axes.transAxes, ha="center", fontsize=8)


def _sizes(trained: Sequence[comparisons.Trained], candidate: str) -> Drawing:
    """The gain of a candidate that was trained at several sizes, by text."""
    gains, trend = comparisons.gains(trained, candidate), comparisons.trends(trained, candidate)
    figure, axes = new_axes("size (multiple of the run's width and tokens)", "gain (nats per token)")
    for index, corpus in enumerate(dict.fromkeys(gain.corpus for gain in gains)):
        own = [gain for gain in gains if gain.corpus == corpus]
        reach = [0.0 if gain.interval is None else gain.interval.high - gain.gain for gain in own]
        xs = [gain.factor * (1 + 0.03 * index) for gain in own]  # side by side, so that the bars do not overlap
        axes.errorbar(xs, [gain.gain for gain in own], reach, color=(ACCENT, GOOD)[index % 2], marker="o", capsize=3,
                      label=corpus)  # fmt: skip
    axes.axhline(0, color=INK, lw=0.8)
    axes.set_xscale("log", base=2)
    ticks = sorted({gain.factor for gain in gains})
    axes.set_xticks(ticks, [f"×{tick}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    header = ("text", "size", "control", "loss", "control loss", "gain", "low", "high", "seeds")
    cells = tuple(
        (gain.corpus, gain.factor, gain.control, gain.loss, gain.control_loss, gain.gain, *bounds(gain.interval),
         gain.seeds)
        for gain in gains
    )  # fmt: skip
    caption = (
        "The strongest control's held-out loss minus the candidate's, paired by seed, with its 95 % interval over "
        f"seeds. {comparisons.sizes_text(gains, trend)}"
    )
    title = f"Size · The gain of {gains[0].name} at several sizes"
    return Drawing(f"sizes-{candidate}", title, caption, figure, header, cells)


def relation(data: Dataset, rung: int) -> Drawing:
    """The rank correlation of losses at one stage with those at the next."""
    name = f"stages-{rung - 1}-{rung}"
    title = f"From stage {rung - 1} to stage {rung} · Correlation of losses"
    pairs = []
    for record in data.records:
        stages = [(0, record.training), *((stage.rung or 1, stage.training) for stage in record.verifications)]
        losses = {at: training.loss for at, training in stages if training.HasField("loss")}
        if rung - 1 in losses and rung in losses:
            pairs.append((record, losses[rung - 1], losses[rung]))
    earlier, later = [before for _, before, _ in pairs], [after for _, _, after in pairs]
    cells = tuple((record.id, name_of(record), before, after) for record, before, after in pairs)
    if len(pairs) < 2:
        return missing(name, title, f"too few candidates ({len(pairs)}) were trained at both stages")
    try:
        related = stage_relation(earlier, later)
        low, high, p = related.interval.low, related.interval.high, related.correlation.p
        verb = "does not predict the later one here" if low <= 0 else "predicts the later"
        caption = (
            f"Rank correlation {related.correlation.rho:+.2f} [{low:+.2f}, {high:+.2f}] over {len(pairs)} candidates"
            f"{'' if p is None else f', p {p:.2g}'}: the earlier stage {verb}. Only promoted candidates and "
            "controls are included, which lowers the correlation."
        )
    except ValueError as error:
        caption = f"No correlation is given: {error}."
    figure, axes = new_axes(f"loss at stage {rung - 1} (nats per token)", f"loss at stage {rung} (nats per token)")
    axes.grid(axis="x", color=FAINT, lw=0.8)
    for baseline, colour, label in ((True, SOFT, "controls"), (False, ACCENT, "candidates")):
        group = [(before, after) for record, before, after in pairs if (record.kind == pb.KIND_BASELINE) == baseline]
        if group:
            axes.scatter(*zip(*group, strict=True), s=28, color=colour, label=label, zorder=3)  # type: ignore[misc]
    axes.margins(x=0.05, y=0.05)
    axes.legend(frameon=False, fontsize=8)
    if len(pairs) <= LINES:  # names beside the axes, as those of neighbours would meet within
        low, high = axes.get_ylim()
        pairs.sort(key=lambda pair: pair[2])
        half = (high - low) / 2
        heights = spread([after - low - half for _, _, after in pairs], 2 * half / LINES, half)
        for (record, before, after), height in zip(pairs, heights, strict=True):
            axes.annotate(label_of(record, 28), (before, after), xytext=(1.02, low + half + height), va="center",
                          textcoords=axes.get_yaxis_transform(), fontsize=7, color=INK,
                          arrowprops={"arrowstyle": "-", "color": SOFT, "lw": 0.5, "relpos": (0, 0.5)})  # fmt: skip
    return Drawing(name, title, caption, figure, ("id", "name", "earlier loss", "later loss"), cells)


def predictors(data: Dataset) -> Drawing:
    """Rank correlations of loss, judge and fitness of the search with the losses of the last verification."""
    name, title = "predictors", "Predictors of the verification"
    verified = [
        (record, verification.training.loss)
        for record in data.records
        for verification in record.verifications[-1:]
        if verification.training.HasField("loss")
        and record.verdict.HasField("raw")
        and record.training.HasField("loss")
    ]
    if len(verified) < MIN_CORRELATED:
        why = f"{len(verified)} of {MIN_CORRELATED} required candidates have a judgement and a verified loss"
        return missing(name, title, why)
    later = [-after for _, after in verified]
    losses = [-record.training.loss for record, _ in verified]
    measures = {"loss": losses, "judge": [record.verdict.raw for record, _ in verified]}
    if all(record.verdict.HasField("fitness") for record, _ in verified):
        measures["fitness"] = [record.verdict.fitness.value for record, _ in verified]
    cells = list[tuple[str, int, float | None, float | None, float | None, float | None]]()
    for measure, values in measures.items():
        try:
            related = stage_relation(values, later)
        except ValueError:
            cells.append((measure, len(values), None, None, None, None))
            continue
        added = None if measure == "loss" else partial_rank_correlation(values, later, losses)
        cells.append((measure, len(values), related.correlation.rho, *bounds(related.interval), added))
    caption = (
        "Rank correlation with the verified loss, positive if better values come with lower losses, with its 95 % "
        "interval. beyond loss: the partial rank correlation given the search's loss; near zero, a judge adds nothing "
        "to the selection. Only promoted candidates were verified, which weakens all correlations."
    )
    header = ("measure", "candidates", "correlation", "low", "high", "beyond loss")
    return Drawing(name, title, caption, None, header, tuple(cells))


def _work(records: Sequence[pb.Candidate]) -> Iterator[Work]:
    """All trainings in the order of the run: the search by number, then the controls' again, then the finalists'."""
    for record in records:
        yield Work(seconds_of(record))
    verified = [record for record in records if record.verifications]
    for record in sorted(verified, key=lambda record: record.kind != pb.KIND_BASELINE):
        confirmed = record.HasField("discovery") and outcome_of(record.discovery) == "confirmed"
        yield Work(sum(map(seconds_of, record.verifications)), record.id if confirmed else None)
