"""What the report says of claims: the verdicts, the discovery curve, whether one stage predicts the next.

The gallery is a model card for each confirmed discovery, as part of the page and as JSON beside it.
"""

import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from services.console.commands import scaling, sizes
from services.console.commands.gallery import by_effect, card_json, cards, finding_of, name_of, outcome_of
from services.console.report.dataset import (
    ACCENT,
    GOOD,
    INK,
    SOFT,
    WIDTH,
    Dataset,
    Drawing,
    missing,
    new_axes,
    plain,
    seconds_of,
)
from services.contracts import candidate_pb2 as pb
from services.domain.curves import (
    LEAST_CORRELATED,
    DiscoveryCurve,
    StageRelation,
    Work,
    discovery_curve,
    partial_rank_correlation,
    stage_relation,
)
from services.domain.discovery import ModelCard

HOUR = 3600.0
BAND_POINTS = 60
MOST_NAMES = 8
LEVELS = (5, -12, 17)  # points above or below, so that names of neighbours do not meet


def discoveries(data: Dataset) -> list[Drawing]:
    """The verdicts, the curve, and one figure for each step from stage to stage."""
    rungs = sorted({verification.rung or 1 for record in data.records for verification in record.verifications})
    return [
        verdicts(data),
        overview(data),
        curve(data),
        growth(data),
        *size_figures(data),
        *(relation(data, rung) for rung in rungs or [1]),
        predictors(data),
    ]


def verdicts(data: Dataset) -> Drawing:
    """Every claim that was tried, held or not."""
    name, title = "verdicts", "Claims and what came of them"
    judged = [record for record in data.records if record.HasField("discovery")]
    if not judged:
        return Drawing(name, title, "", None, missing="no candidate was promoted to a second training")
    known = {record.id: record for record in data.records}
    cells = []
    for record in sorted(judged, key=by_effect):
        found = finding_of(record)
        low, high = (found.interval.low, found.interval.high) if found.interval else (None, None)
        cells.append((
            record.id, record.proposal.name, found.outcome.value, name_of(known, found.control or ""),
            found.effect, low, high, len(found.seeds), found.p, found.adjusted_p, found.reason,
        ))  # fmt: skip
    header = ("id", "name", "verdict", "strongest control", "gain", "low", "high", "seeds", "p", "adjusted p", "why")
    tried = judged[0].discovery.tried
    caption = (
        "gain: the control's held-out loss minus the candidate's (nats per token), paired over fresh seeds, on data "
        f"that no selection has seen; low and high bound it at 95 %. p is one-sided, adjusted for {tried} tried."
    )
    return Drawing(name, title, caption, None, header, tuple(cells))


def curve(data: Dataset) -> Drawing:
    """Cumulative confirmed discoveries against all compute that was paid for."""
    name, title = "discovery-curve", "Discovery curve · Confirmed discoveries against compute spent"
    found = discovery_curve(list(_work(data.records)))
    tried = sum(record.HasField("discovery") for record in data.records)
    if not found.points:
        spent = f"in {found.total / HOUR:.2f} hours of training and evaluation"
        why = f"none of the claims tried ({tried}) was confirmed {spent}" if tried else f"no claim was tried {spent}"
        return Drawing(name, title, "", None, missing=why)
    known = {record.id: record for record in data.records}
    cells = tuple((one, name_of(known, one), spent / HOUR, count) for one, spent, count in found.points)
    figure = _curve_figure(found)
    caption = f"{len(found.points)} confirmed of {tried} claims tried, {found.total / HOUR:.2f} hours in all. "
    if found.line is None:
        caption += f"No line is drawn: {found.unfitted}."
    else:
        caption += (
            f"Least-squares line {found.line.slope * HOUR:.3g} discoveries per hour, with the 95 % band of the line. "
            "Counts that only grow are no independent points: the band is a lower bound of what is not known."
        )
    return Drawing(name, title, caption, figure, ("id", "name", "hours", "discoveries"), cells)


def growth(data: Dataset) -> Drawing:
    """Figure 1 against the strongest control instead of the root, with a fit; beside it simulated runs on the table."""
    name, title = "discovery-scaling", "Scaling of discovery · Candidates better than the strongest control"
    try:
        found = scaling.of_run(data.status.run, data.records)
    except ValueError as error:
        return missing(name, title, str(error))
    if not found.candidates:
        return missing(name, title, "no candidate was trained")
    simulated = [scaling.on_the_table("bandit"), scaling.on_the_table("bandit", against="delta_net")]
    drawn = (found, *simulated)
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    for place, group in enumerate(([found], simulated), 1):
        axes = figure.add_subplot(1, 2, place)
        for colour, one in zip((ACCENT, GOOD), group, strict=False):
            _growth(axes, one, colour)
        axes.set_xlabel("hours of training and evaluation" if place == 1 else "trainings")
        axes.set_ylabel("candidates better than the control")
        axes.set_title(f"run {data.status.run}" if place == 1 else "simulated on the table, mean run", fontsize=9,
                       color=INK, loc="left")  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
        plain(axes)
    caption = " ".join(scaling.summary_text(one) for one in drawn) + (
        " Steps: counted. Dashed, with the 95 % band of the exponent: a power law of compute. Single trainings are "
        "compared with a control's mean, so that a few of the many are better by chance; the discovery curve counts "
        "what was confirmed."
    )
    cells = tuple(
        (one.source, at, count) for one in (found, *simulated) for run in one.scaling.runs for at, count in run
    )
    return Drawing(name, title, caption, figure, ("source", "compute", "better"), cells)


def _growth(axes: Axes, found: scaling.Found, colour: str) -> None:
    """The counts of one run, or the mean of several, and the power law through them."""
    fit = found.scaling
    longest, runs = max(fit.totals), len(fit.runs)
    jumps = sorted(at for run in fit.runs for at, _ in run)
    counts = [place / runs for place in range(1, len(jumps) + 1)]
    axes.step([0.0, *jumps, longest], [0.0, *counts, len(jumps) / runs], where="post", color=colour, lw=1.8,
              label=f"against {found.control.name}")  # fmt: skip
    if fit.exponent is None or fit.exponent_interval is None:
        return
    xs = [longest * place / BAND_POINTS for place in range(BAND_POINTS + 1)]
    axes.plot(xs, [fit.expected(x) for x in xs], color=colour, lw=1.2, ls="--")
    ends = [[fit.expected(x, power) for x in xs] for power in (fit.exponent_interval.low, fit.exponent_interval.high)]
    axes.fill_between(xs, ends[1], ends[0], color=colour, alpha=0.15, lw=0)


def overview(data: Dataset) -> Drawing:
    """The whole run in one figure: every loss of the search by who proposed it, and what became of the finalists."""
    name, title = "overview", "The run · What was found, from which source, and what was confirmed"
    groups = {
        "controls": [record for record in data.measured if record.kind == pb.KIND_BASELINE],
        "language model": [
            record for record in data.measured if record.kind == pb.KIND_PROPOSAL and not record.proposal.moves
        ],
        "offline search": [
            record for record in data.measured if record.kind == pb.KIND_PROPOSAL and record.proposal.moves
        ],
    }
    proposals = len(groups["language model"]) + len(groups["offline search"])
    if not groups["controls"] or not proposals:
        return missing(name, title, "no proposal can be compared with a control")
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.add_subplot(1, 2, 1)
    cells: list[tuple[object, ...]] = []
    for (label, group), colour, marker in zip(groups.items(), (INK, ACCENT, GOOD), "s^o", strict=True):
        axes.scatter([one.request.number for one in group], [one.training.loss for one in group], s=26, color=colour,
                     marker=marker, label=f"{label} ({len(group)})", zorder=3)  # fmt: skip
        cells += [(one.id, name_of({one.id: one}, one.id), label, one.training.loss) for one in group]
    best = min(one.training.loss for one in groups["controls"])
    axes.axhline(best, color=INK, lw=1, ls="--", label="strongest control")
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("candidate, in the order of the run")
    axes.set_ylabel("held-out loss (nats per token)")
    axes.legend(frameon=False, fontsize=7)
    plain(axes)
    _finalists(figure.add_subplot(1, 2, 2), data)
    caption = (
        f"Left: one seed each, {max(len(one.training.seeds) for one in groups['controls'])} for controls. Right: the "
        "strongest control's loss minus the finalist's, fresh seeds and unseen text, with its 95 % interval; filled "
        "where it was confirmed, hollow where not."
    )
    return Drawing(name, title, caption, figure, ("id", "name", "by", "loss"), tuple(cells))


def _finalists(axes: Axes, data: Dataset) -> None:
    """The gain of each claim that was tested, with its interval."""
    judged = sorted((record for record in data.records if record.HasField("discovery")), key=by_effect, reverse=True)
    tested = [(one, finding) for one in judged if (finding := finding_of(one)).interval is not None]
    for place, (one, finding) in enumerate(tested):
        assert finding.interval is not None  # noqa: S101 - by the line above
        assert finding.effect is not None  # noqa: S101 - comes with the interval
        reach = finding.interval.high - finding.effect
        filled = outcome_of(one.discovery) == "confirmed"
        axes.errorbar([finding.effect], [place], xerr=reach, color=ACCENT, marker="o", capsize=3,
                      markerfacecolor=ACCENT if filled else "white")  # fmt: skip
        axes.annotate(one.proposal.name, (0.03, place + 0.12), xycoords=("axes fraction", "data"), fontsize=8,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks([])
    axes.set_ylim(-0.4, max(0.6, len(tested) - 0.4))
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("gain over the strongest control (nats)")
    plain(axes, grid="x")
    if not tested:
        axes.text(0.5, 0.5, "no claim was tested", transform=axes.transAxes, ha="center", fontsize=8)


def size_figures(data: Dataset) -> list[Drawing]:
    """The gain of each candidate that was trained at several sizes, by text; empty without such trainings."""
    known = {record.id: record for record in data.records}
    trained = data.sizes
    own = dict.fromkeys(one.candidate for one in trained if known[one.candidate].kind != pb.KIND_BASELINE)
    return [_sizes(trained, one) for one in own if sizes.gains(trained, one)]


def _sizes(trained: Sequence[sizes.Trained], candidate: str) -> Drawing:
    found, drift = sizes.gains(trained, candidate), sizes.trends(trained, candidate)
    figure, axes = new_axes("size (multiple of the run's width and tokens)", "gain (nats per token)")
    for place, corpus in enumerate(dict.fromkeys(one.corpus for one in found)):
        own = [one for one in found if one.corpus == corpus]
        reach = [0.0 if one.interval is None else one.interval.high - one.gain for one in own]
        xs = [one.factor * (1 + 0.03 * place) for one in own]  # side by side, or the bars hide each other
        axes.errorbar(xs, [one.gain for one in own], reach, color=(ACCENT, GOOD)[place % 2], marker="o", capsize=3,
                      label=corpus)  # fmt: skip
    axes.axhline(0, color=INK, lw=0.8)
    axes.set_xscale("log", base=2)
    ticks = sorted({one.factor for one in found})
    axes.set_xticks(ticks, [f"×{tick}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    header = ("text", "size", "control", "loss", "control loss", "gain", "low", "high", "seeds")
    cells = tuple(
        (one.corpus, one.factor, one.control, one.loss, one.control_loss, one.gain,
         one.interval.low if one.interval else None, one.interval.high if one.interval else None, one.seeds)
        for one in found
    )  # fmt: skip
    caption = (
        "The strongest control's held-out loss minus the candidate's, paired by seed, with its 95 % interval over "
        f"seeds. {sizes.summary_text(found, drift)}"
    )
    return Drawing(
        f"sizes-{candidate}", f"Size · Does the gain of {found[0].name} hold?", caption, figure, header, cells
    )


def relation(data: Dataset, rung: int) -> Drawing:
    """Do losses of one stage order candidates as the next stage's do?"""
    name, title = (
        f"stages-{rung - 1}-{rung}",
        f"From stage {rung - 1} to stage {rung} · Does one loss predict the next?",
    )
    pairs = [(record, before, after) for record in data.records for before, after in _losses(record, rung)]
    earlier, later = [before for _, before, _ in pairs], [after for _, _, after in pairs]
    cells = tuple((one.id, one.proposal.name, before, after) for one, before, after in pairs)
    if len(pairs) < 2:
        return Drawing(name, title, "", None, missing=f"too few candidates ({len(pairs)}) were trained at both stages")
    try:
        caption = _relation_caption(stage_relation(earlier, later))
    except ValueError as error:
        caption = f"No correlation is given: {error}."
    figure = _relation_figure(pairs, rung)
    return Drawing(name, title, caption, figure, ("id", "name", "earlier loss", "later loss"), cells)


def predictors(data: Dataset) -> Drawing:
    """What of the search foretold the losses of the last verification: the judge's use, measured."""
    name, title = "predictors", "What foretold the verification"
    verified = [
        (record, verification.training.loss)
        for record in data.records
        for verification in record.verifications[-1:]
        if verification.training.HasField("loss")
        and record.verdict.HasField("raw")
        and record.training.HasField("loss")
    ]
    if len(verified) < LEAST_CORRELATED:
        missing = f"{len(verified)} of {LEAST_CORRELATED} candidates that it needs have a judgement and a verified loss"
        return Drawing(name, title, "", None, missing=missing)
    later = [-after for _, after in verified]
    losses = [-record.training.loss for record, _ in verified]
    measures = {"loss": losses, "judge": [record.verdict.raw for record, _ in verified]}
    if all(record.verdict.HasField("fitness") for record, _ in verified):
        measures["fitness"] = [record.verdict.fitness.value for record, _ in verified]
    cells = list[tuple[str, int, float | None, float | None, float | None, float | None]]()
    for measure, values in measures.items():
        try:
            found = stage_relation(values, later)
        except ValueError:
            cells.append((measure, len(values), None, None, None, None))
            continue
        added = None if measure == "loss" else partial_rank_correlation(values, later, losses)
        cells.append((measure, len(values), found.correlation.rho, found.interval.low, found.interval.high, added))
    caption = (
        "Rank correlation with the verified loss, positive where better comes with better, with its 95 % interval. "
        "beyond loss: the part that the search's loss does not tell already (partial rank correlation); near zero, a "
        "judge adds nothing to the selection. Only promoted candidates were verified, which weakens all of them."
    )
    header = ("measure", "candidates", "correlation", "low", "high", "beyond loss")
    return Drawing(name, title, caption, None, header, tuple(cells))


def _work(records: Sequence[pb.Candidate]) -> Iterator[Work]:
    """All trainings in the order of the run: the search by number, then the controls' again, then the finalists'."""
    for record in records:
        yield Work(seconds_of(record))
    again = [record for record in records if record.verifications]
    for one in sorted(again, key=lambda one: one.kind != pb.KIND_BASELINE):
        seconds = sum(seed.measurements.seconds for again in one.verifications for seed in again.training.seeds)
        confirmed = one.HasField("discovery") and outcome_of(one.discovery) == "confirmed"
        yield Work(seconds, one.id if confirmed else None)


def _losses(record: pb.Candidate, rung: int) -> list[tuple[float, float]]:
    """The loss at the stage before and at this one; nothing where either is missing."""
    stages = [
        (0, record.training),
        *((verification.rung or 1, verification.training) for verification in record.verifications),
    ]
    known = {at: training.loss for at, training in stages if training.HasField("loss")}
    return [(known[rung - 1], known[rung])] if rung - 1 in known and rung in known else []


def _relation_caption(found: StageRelation) -> str:
    rho, low, high = found.correlation.rho, found.interval.low, found.interval.high
    p = "" if found.correlation.p is None else f", p {found.correlation.p:.2g}"
    says = (
        "the earlier stage does not predict the later one here" if low <= 0 else "the earlier stage predicts the later"
    )
    return (
        f"Rank correlation {rho:+.2f} [{low:+.2f}, {high:+.2f}] over {found.correlation.count} candidates{p}: {says}. "
        "Only those that were promoted, and the controls, are here: a selection, which lowers the correlation."
    )


def _curve_figure(found: DiscoveryCurve) -> Figure:
    figure, axes = new_axes("compute spent (hours of training and evaluation)", "confirmed discoveries")
    hours = [0.0, *(spent / HOUR for _, spent, _ in found.points), found.total / HOUR]
    counts = [0, *(count for _, _, count in found.points), len(found.points)]
    axes.step(hours, counts, where="post", color=ACCENT, lw=2, label="confirmed", zorder=3)
    axes.scatter(hours[1:-1], counts[1:-1], s=22, color=ACCENT, zorder=4)
    if found.line is not None:
        start, end = found.points[0][1], found.total
        xs = [start + (end - start) * place / BAND_POINTS for place in range(BAND_POINTS + 1)]
        axes.plot([x / HOUR for x in xs], [found.line.at(x) for x in xs], color=GOOD, lw=1.4, ls="--", label="line")
        bands = [band for x in xs if (band := found.line.band(x)) is not None]
        if len(bands) == len(xs):
            low, high = [max(0.0, band.low) for band in bands], [band.high for band in bands]
            axes.fill_between([x / HOUR for x in xs], low, high, color=GOOD, alpha=0.15, lw=0, label="95 % band")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="upper left")
    return figure


def _relation_figure(pairs: Sequence[tuple[pb.Candidate, float, float]], rung: int) -> Figure:
    figure, axes = new_axes(f"loss at stage {rung - 1} (nats per token)", f"loss at stage {rung} (nats per token)")
    axes.grid(axis="x", color="#e4e7eb", lw=0.8)
    for baseline, colour, label in ((True, SOFT, "controls"), (False, ACCENT, "candidates")):
        own = [(before, after) for one, before, after in pairs if (one.kind == pb.KIND_BASELINE) == baseline]
        if own:
            axes.scatter([x for x, _ in own], [y for _, y in own], s=28, color=colour, label=label, zorder=3)
    for place, (one, before, after) in enumerate(sorted(pairs, key=lambda pair: pair[1])):
        label = one.id if len(pairs) > MOST_NAMES else one.proposal.name or one.id
        axes.annotate(label, (before, after), xytext=(6, LEVELS[place % 3]), textcoords="offset points",
                      fontsize=8, color=INK)  # fmt: skip
    axes.margins(x=0.25, y=0.12)
    axes.legend(frameon=False)
    return figure


TITLE = "Gallery · Confirmed discoveries"


def gallery_section(data: Dataset, folder: Path) -> str:
    """The cards, greatest effect first, and `gallery.json`; a sentence where nothing was confirmed."""
    found = cards(data.status, data.records)
    if not found:
        return f'<h2>{TITLE}</h2><p class="missing">Empty: no claim of this run was confirmed.</p>'
    text = json.dumps([card_json(one) for one in found], indent=2, ensure_ascii=False)
    (folder / "gallery.json").write_text(text, encoding="utf-8")
    body = "".join(_card(one) for one in found)
    return f'<h2>{TITLE}</h2>{body}<p class="soft"><a href="gallery.json">json</a></p>'


def _card(entry: ModelCard) -> str:
    parts = (
        ("Evidence", (*entry.evidence, entry.compared)),
        ("Cost", entry.cost or ("Not measured.",)),
        ("Lineage", (" → ".join(entry.lineage),)),
    )
    told = "".join(
        f"<dt>{title}</dt>" + "".join(f"<dd>{escape(line)}</dd>" for line in lines) for title, lines in parts
    )
    return (
        f'<article class="missing"><h3>{escape(entry.facts.name)} '
        f'<span class="soft">{escape(entry.candidate)}</span></h3>'
        f"<p><strong>{escape(entry.claim)}</strong></p><p>{escape(entry.facts.motivation)}</p><dl>{told}</dl></article>"
    )
