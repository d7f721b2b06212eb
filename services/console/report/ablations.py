"""Which component carries a candidate's gain: one figure for each candidate that was ablated."""

from matplotlib.figure import Figure

from services.console.commands.ablate import Part, part_row, parts
from services.console.report.dataset import Dataset, name_of
from services.console.report.drawing import GOOD, INK, SOFT, Drawing
from services.contracts import candidate_pb2 as pb


def ablations(data: Dataset) -> list[Drawing]:
    """One drawing per ablated candidate, in the order of the run; one that says so where there is none."""
    asked = {one.request.ablation_of for one in data.records if one.kind == pb.KIND_ABLATION}
    originals = [one for one in data.records if one.id in asked]
    if not originals:
        missing = "no candidate was ablated; `asi-arch ablate CANDIDATE` does it"
        return [Drawing("ablations", "Ablations", "", None, missing=missing)]
    return [_drawing(one, data) for one in originals]


def _drawing(original: pb.Candidate, data: Dataset) -> Drawing:
    name, title = f"ablation-{original.id}", f"Ablation · What each component of {name_of(original)} brings"
    found = parts(original, data.records)
    measured = [one for one in found if one.gain is not None]
    rows = [part_row(one) for one in found]
    header = tuple(rows[0])
    cells = tuple(tuple(row.values()) for row in rows)
    if not measured:
        return Drawing(name, title, "", None, missing=found[0].reason or "no ablation was measured yet")
    silent = any(one.gain is not None and one.gain.words.endswith("this seed") for one in measured)
    covered = "are silent about other seeds, of which none is known" if silent else "scatter between seeds is part of"
    caption = (
        "How far the held-out loss rises without the component (nats per token, same seeds), with 95 % intervals that "
        f"{covered}. What crosses zero is not told apart from nothing."
    )
    failed = [f"{one.component}: {one.reason}" for one in found if one.gain is None and one.reason]
    return Drawing(name, title, " ".join((caption, *failed)), _figure(measured), header, cells)


def _figure(found: list[Part]) -> Figure:
    figure = Figure(figsize=(7.5, 0.42 * len(found) + 1.1), layout="constrained")
    axes = figure.add_subplot()
    for place, one in enumerate(found):
        if one.gain is None:
            continue
        interval, colour = one.gain.interval, SOFT if one.gain.interval.crosses_zero else GOOD
        axes.plot([interval.low, interval.high], [place, place], color=colour, lw=2.2, solid_capstyle="round")
        axes.scatter([one.gain.mean], [place], s=34, color=colour, zorder=3)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(range(len(found)), [one.component for one in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel("loss without it − loss with it (nats per token)")
    axes.grid(axis="x", color="#e4e7eb", lw=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure
