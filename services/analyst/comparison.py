"""Statistical comparison of candidates from their records, and the text of results.

Pairs are formed by seed and, within a seed, by held-out block or benchmark item. Blocks and items are the same for all
seeds, so their error does not decrease with more seeds; the error over seeds is added to it, with Student's t. With one
seed it is taken from the candidates with several; without any, only the error over held-out data is known.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean, stdev

from services.analyst.cognition import Knowledge
from services.analyst.cognition.search import Hit
from services.archive.scoring import (
    block_gains,
    is_comparable,
    loss_error,
    seed_noise,
    shared_seeds,
    stopped_early,
    task_means,
)
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain.statistics import LEVEL, Noise, normal_quantile, student_quantile


@dataclass(frozen=True)
class Dossier:
    """The data of an analysis; absent relatives are None or empty."""

    record: pb.Candidate
    root: pb.Candidate | None
    parent: pb.Candidate | None
    grandparent: pb.Candidate | None
    siblings: tuple[pb.Candidate, ...]  # best first
    hits: tuple[Hit, ...]
    settings: events_pb2.RunSettings
    baselines: tuple[pb.Candidate, ...] = ()  # the measured ones except the root
    best: pb.Candidate | None = None  # the lowest loss of the run
    sources: tuple[Knowledge, ...] = ()  # entries named by the proposal's ideas

    @property
    def between_seeds(self) -> Noise | None:
        """The deviation of losses between seeds, pooled over the known records with several; None without any."""
        return seed_noise(self.all_records)

    @property
    def all_records(self) -> tuple[pb.Candidate, ...]:
        """The candidate, its relatives, the root, the other baselines and the best of the run, without duplicates."""
        relatives = (self.parent, self.root, self.grandparent, *self.siblings, *self.baselines, self.best)
        by_id: dict[str, pb.Candidate] = {}
        for record in (self.record, *relatives):
            if record is not None:
                by_id.setdefault(record.id, record)
        return tuple(by_id.values())


@dataclass(frozen=True)
class Difference:
    """A difference of two means with its errors; positive if the candidate is better (its loss is lower).

    `items` is the standard error over blocks or items, `seeds` that over seeds; None if unknown. `freedom` are the
    degrees of freedom of the latter.
    """

    gain: float
    items: float | None
    seeds: float | None
    count: int  # shared seeds
    freedom: int = 0

    @property
    def stderr(self) -> float | None:
        """The combined error; None if both are unknown."""
        parts = [part for part in (self.items, self.seeds) if part is not None]
        return math.hypot(*parts) if parts else None

    def certain(self, among: int = 1) -> bool:
        """Whether the 95 % interval excludes zero, corrected for `among` comparisons (Bonferroni)."""
        if self.stderr is None:
            return False
        normal, student = _critical(among, self.freedom)
        reach = math.hypot(normal * (self.items or 0.0), student * (self.seeds or 0.0))
        return abs(self.gain) > reach


@dataclass(frozen=True)
class TaskChange:
    """A task's mean score before (the other's) and now (the candidate's); the difference is now minus before."""

    task: str
    before: float
    now: float
    difference: Difference


def loss_difference(record: pb.Candidate, reference: pb.Candidate, between: Noise | None = None) -> Difference | None:
    """The reference's held-out loss minus the candidate's, nats per token, over their common seeds if there are any.

    `between` is the deviation of losses between seeds, which one seed cannot show. None if either is unmeasured or was
    stopped early, or if they were measured on other text or in another precision.
    """
    if not record.training.HasField("loss") or not reference.training.HasField("loss"):
        return None
    if not is_comparable(record, reference):
        return None
    gain = reference.training.loss - record.training.loss
    if pairs := shared_seeds(record, reference):
        gain = fmean(theirs.loss - own.loss for own, theirs in pairs)
    rows = block_gains(record, reference)
    difference = _of_rows(gain, rows) if rows else _unpaired(gain, loss_error(record), loss_error(reference))
    if between is None or difference.seeds is not None:
        return difference
    return replace(difference, seeds=between.deviation * math.sqrt(2), freedom=between.freedom)


def task_changes(record: pb.Candidate, reference: pb.Candidate) -> list[TaskChange]:
    """Every task that both were tested on, the largest change first."""
    if not is_comparable(record, reference):
        return []
    ours, theirs = task_means(record), task_means(reference)
    changes = [
        TaskChange(task, theirs[task], ours[task], _task_difference(record, reference, task, ours[task] - theirs[task]))
        for task in ours.keys() & theirs.keys()
    ]
    return sorted(changes, key=lambda change: (-abs(change.difference.gain), change.task))


def flops_of(record: pb.Candidate) -> float | None:
    """FLOPs per token of the first seed that has them; unlike speed, independent of the machine's load."""
    measurements = (seed.measurements for seed in record.training.seeds)
    return next((m.flops_per_token for m in measurements if m.HasField("flops_per_token")), None)


def parameters_of(record: pb.Candidate) -> int | None:
    """Parameters of the whole model; the same for every seed."""
    return next((s.measurements.parameters for s in record.training.seeds if s.measurements.parameters), None)


def _task_difference(record: pb.Candidate, reference: pb.Candidate, task: str, gain: float) -> Difference:
    pairs = [(_score(ours, task), _score(theirs, task)) for ours, theirs in shared_seeds(record, reference)]
    rows = [
        [float(a) - b for a, b in zip(ours.correct, theirs.correct, strict=True)]
        for ours, theirs in pairs
        if ours is not None and theirs is not None and 0 < len(ours.correct) == len(theirs.correct)
    ]
    return _of_rows(gain, rows) if rows else _unpaired(gain, _task_error(record, task), _task_error(reference, task))


def _of_rows(gain: float, rows: Sequence[Sequence[float]]) -> Difference:
    """`rows[seed][item]` are paired differences; only items of all seeds are used."""
    columns = list(zip(*rows, strict=False))
    items = stdev(map(fmean, columns)) / math.sqrt(len(columns)) if len(columns) > 1 else None
    seeds = stdev(map(fmean, rows)) / math.sqrt(len(rows)) if len(rows) > 1 else None
    return Difference(gain, items, seeds, len(rows), len(rows) - 1)


def _score(seed: pb.SeedResult, task: str) -> pb.TaskScore | None:
    return next((score for score in seed.scores if score.task == task), None)


def _task_error(record: pb.Candidate, task: str) -> float | None:
    """The first seed's error, an upper bound of the mean's, since all seeds have the same items."""
    scores = [score for seed in record.training.seeds if (score := _score(seed, task)) is not None]
    return scores[0].stderr if scores and scores[0].HasField("stderr") else None


def _unpaired(gain: float, own_error: float | None, reference_error: float | None) -> Difference:
    error = None if own_error is None or reference_error is None else math.hypot(own_error, reference_error)
    return Difference(gain, error, None, 0)


@lru_cache(maxsize=256)
def _critical(among: int, freedom: int) -> tuple[float, float]:
    """Two-sided critical values of the normal and of Student's t."""
    upper = 1 - (1 - LEVEL) / 2 / among
    return normal_quantile(upper), student_quantile(upper, freedom) if freedom > 0 else 0.0


MAX_TASKS = 4  # named individually
HONESTY = "Computed from the measurements of this run, without a language model."


def reference_of(dossier: Dossier) -> tuple[pb.Candidate, str] | None:
    """The main reference of the candidate: its parent, else the root."""
    if dossier.parent is not None and dossier.parent.training.HasField("loss"):
        return dossier.parent, f"its parent {dossier.parent.proposal.name}"
    if dossier.root is not None and dossier.root.id != dossier.record.id and dossier.root.training.HasField("loss"):
        return dossier.root, f"the root {dossier.root.proposal.name}"
    return None


def results(dossier: Dossier) -> str:
    """The measurements in sentences; missing ones are named."""
    sentences = [HONESTY, *_own(dossier.record), *_losses(dossier)]
    if reference := reference_of(dossier):
        sentences += [_tasks(task_changes(dossier.record, reference[0]), reference[1])]
        sentences += [_cost(dossier.record, reference[0])]
    return " ".join(sentence for sentence in sentences if sentence)


def listed(names: list[str]) -> str:
    if len(names) < 2:
        return names[0] if names else "nothing"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _own(record: pb.Candidate) -> list[str]:
    training = record.training
    if not training.HasField("loss"):
        return ["No held-out loss was measured."]
    count = len(training.seeds)
    spread = f", standard error {training.loss_stderr:.4f}" if training.HasField("loss_stderr") else ""
    seeds = "one seed" if count == 1 else f"{count} seeds{spread}"
    sentences = [f"Held-out loss {training.loss:.4f} nats per token over {seeds}."]
    if reason := stopped_early(record):
        sentences.append(f"Its training was stopped early, so this loss does not compare with others: {reason}")
    if training.HasField("benchmark"):
        error = f" (standard error {training.benchmark_stderr:.3f})" if training.HasField("benchmark_stderr") else ""
        sentences.append(f"Mean accuracy {training.benchmark:.3f}{error}.")
    if not record.verdict.HasField("fitness"):
        reason = record.verdict.absent_because.removeprefix("the fitness is absent: ")
        sentences.append(f"It has no fitness: {reason or 'a part of it is absent'}.")
    return sentences


def _losses(dossier: Dossier) -> list[str]:
    record, references = dossier.record, list[tuple[pb.Candidate, str]]()
    if dossier.root is not None and dossier.root.id != record.id:
        references.append((dossier.root, f"the root {dossier.root.proposal.name}"))
    if dossier.parent is not None and (dossier.root is None or dossier.parent.id != dossier.root.id):
        references.append((dossier.parent, f"its parent {dossier.parent.proposal.name}"))
    best = next((sibling for sibling in dossier.siblings if sibling.training.HasField("loss")), None)
    if best is not None:
        references.append((best, f"its best sibling {best.proposal.name}"))
    return [_loss_sentence(dossier, reference, name) for reference, name in references]


def _loss_sentence(dossier: Dossier, reference: pb.Candidate, name: str) -> str:
    """The comparison with a reference; empty if one of the two was not measured."""
    if (difference := loss_difference(dossier.record, reference, dossier.between_seeds)) is not None:
        return f"Against {name} ({_loss_beside(dossier.record, reference)}) the loss is {_verdict(difference)}."
    if dossier.record.training.HasField("loss") and reference.training.HasField("loss"):
        if stopped_early(dossier.record) or stopped_early(reference):
            return f"The loss is not compared with that of {name}: one of the two trainings was stopped early."
        return f"The loss of {name} was measured on other text or in another precision, so the two are not compared."
    return ""


def _loss_beside(record: pb.Candidate, reference: pb.Candidate) -> str:
    """The reference's loss over the seeds that are compared."""
    pairs = shared_seeds(record, reference)
    if not pairs or len(pairs) == len(reference.training.seeds):
        return f"{reference.training.loss:.4f}"
    same = "the same seed" if len(pairs) == 1 else f"the same {len(pairs)} seeds"
    return f"{fmean(theirs.loss for _, theirs in pairs):.4f} with {same}"


def _verdict(difference: Difference) -> str:
    size = f"{abs(difference.gain):.4f}"
    if difference.stderr is None:
        return f"not told apart: the difference of {size} has no known error"
    if not difference.certain():
        return f"not told apart: the difference of {size} lies within its error{_error(difference)}"
    return f"{'lower' if difference.gain > 0 else 'higher'} by {size}{_error(difference)}"


def _error(difference: Difference) -> str:
    over = f"{difference.count} seeds and held-out data"
    if difference.count < 2:
        noise = "without the" if difference.seeds is None else "with the usual"
        over = f"held-out data of one seed, {noise} noise between seeds"
    return f" (standard error {difference.stderr:.4f} over {over})"


def _tasks(changes: list[TaskChange], name: str) -> str:
    """The significant changes, corrected for the number of tasks."""
    if not changes:
        return ""
    significant = [change for change in changes if change.difference.certain(among=len(changes))]
    tasks = f"{len(changes)} task{'s' if len(changes) > 1 else ''}"
    if not significant:
        return (
            f"On {tasks} it cannot be distinguished from {name}: the largest change is {_change(changes[0], 'went')}."
        )
    shown = [_change(c, "rose" if c.now > c.before else "fell") for c in significant[:MAX_TASKS]]
    rest = len(changes) - len(significant)
    return f"Of {tasks} against {name}, {listed(shown)}" + (f"; {rest} cannot be distinguished." if rest else ".")


def _change(change: TaskChange, verb: str) -> str:
    which = ", which" if verb == "went" else ""
    return f"{change.task}{which} {verb} from {change.before:.3f} to {change.now:.3f}"


def _cost(record: pb.Candidate, reference: pb.Candidate) -> str:
    sentences = []
    if (ours := parameters_of(record)) and (theirs := parameters_of(reference)):
        sentences.append(f"It has {ours:,} parameters against {theirs:,}.")
    if (now := flops_of(record)) and (before := flops_of(reference)):
        sentences.append(f"It takes {now:,.0f} FLOPs per token against {before:,.0f}.")
    return " ".join(sentences)
