"""The tables of the paper from one run."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from services.console.comparison import gain_over
from services.console.report.dataset import Dataset, name_of
from services.console.report.drawing import Drawing
from services.contracts import candidate_pb2 as pb

MOST_MODELS = 30


def tables(data: Dataset) -> list[Drawing]:
    """Tables 1 and 2 in one (models × tasks, with losses and differences), and table 3."""
    return [benchmarks(data), origins(data)]


def benchmarks(data: Dataset) -> Drawing:
    """Models and what they scored; the difference refers to the root."""
    name, title = "tables-1-2-benchmarks", "Tables 1 and 2 · Models and benchmarks"
    models = [one for one in data.ranked if one.training.seeds][:MOST_MODELS]
    if not models:
        return Drawing(name, title, "", None, missing="no measured candidate has a fitness")
    tasks = list(dict.fromkeys(score.task for one in models for score in one.training.seeds[0].scores))
    loss = data.root.training.loss if data.root is not None else None
    cells = []
    for one in models:
        own = one.training.loss if one.training.HasField("loss") else None
        gain = gain_over(data.root, one)
        difference = own - loss if own is not None and loss is not None else None
        interval = one.verdict.fitness.interval if one.verdict.fitness.HasField("interval") else None
        cells.append((
            one.id, name_of(one), own, difference,
            -gain.interval.high if gain else None, -gain.interval.low if gain else None,
            *(_mean(one, task) for task in tasks),
            one.training.benchmark if one.training.HasField("benchmark") else None,
            one.verdict.raw if one.verdict.HasField("raw") else None,
            one.verdict.fitness.value,
            interval.low if interval else None, interval.high if interval else None,
        ))  # fmt: skip
    header = ("id", "name", "loss", "Δ root", "Δ low", "Δ high", *tasks, "mean", "judge", "fitness", "low", "high")
    caption = (
        "Best first. Δ low and Δ high bound the difference to the root at 95 %, paired by seed and held-out block; "
        "with one seed they are silent about others. low and high bound the fitness: overlapping ones say nothing."
    )
    return Drawing(name, title, caption, None, header, tuple(cells))


def origins(data: Dataset) -> Drawing:
    """Where ideas came from, for the best quarter and the others."""
    name, title = "table-3-origins", "Table 3 · Where ideas came from"
    told = [one for one in data.ranked if one.proposal.ideas]
    if not told:
        return Drawing(name, title, "", None, missing="no scored candidate names the origin of its ideas")
    cut = max(1, len(told) // 4)
    cells = [_shares("best quarter", told[:cut])] + ([_shares("others", told[cut:])] if told[cut:] else [])
    header = ("group", "candidates", "analysis", "cognition", "original")
    return Drawing(name, title, "Shares of ideas by their origin.", None, header, tuple(cells))


def _mean(record: pb.Candidate, task: str) -> float | None:
    values = [score.value for seed in record.training.seeds for score in seed.scores if score.task == task]
    return fmean(values) if values else None


def _shares(group: str, records: Sequence[pb.Candidate]) -> tuple[object, ...]:
    counts = Counter(idea.origin for one in records for idea in one.proposal.ideas)
    total = sum(counts.values()) or 1
    return (group, len(records), *(counts[origin] / total for origin in ("analysis", "cognition", "original")))
