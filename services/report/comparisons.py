"""Comparisons of trainings: at several sizes, without a component, and with one more move."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from services.archive.scoring import loss_of, seed_noise
from services.contracts import candidate_pb2 as pb
from services.domain.statistics import LEVEL, Interval, holm, linear_fit, paired_test, pooled_noise, student_quantile
from services.report.rows import Gain, bounds, gain_over, interval_text, widened

SIZES_FILE = "sizes.jsonl"


@dataclass(frozen=True)
class Trained:
    """One training of a candidate at a size and seed on a text, and its result."""

    candidate: str
    name: str
    factor: int
    corpus: str
    seed: int
    loss: float | None
    parameters: int | None = None
    seconds: float | None = None
    failure: str = ""
    ablation_of: str = ""  # the original of a program without one part
    precision: str = ""

    @property
    def key(self) -> tuple[str, int, str, int]:
        return self.candidate, self.factor, self.corpus, self.seed


@dataclass(frozen=True)
class SizeGain:
    """The gain over the strongest control of one size and text, paired by seed; no interval for one seed."""

    factor: int
    corpus: str
    name: str
    control: str
    seeds: int
    loss: float
    control_loss: float
    gain: float
    interval: Interval | None


@dataclass(frozen=True)
class Trend:
    """The change of the gain per doubling of the size, by least squares over the seeds' gains."""

    corpus: str
    slope: float
    interval: Interval

    @property
    def conclusion(self) -> str:
        if self.interval.crosses_zero:
            return "neither growth nor shrinkage is shown"
        return "the gain grows with size" if self.slope > 0 else "the gain shrinks with size"


def read_sizes(path: Path) -> list[Trained]:
    """All trainings so far; the last line may be truncated."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(Trained(**json.loads(line)))
        except (ValueError, TypeError):
            continue  # a truncated line: the training is repeated
    return rows


def gains(trained: Sequence[Trained], candidate: str) -> list[SizeGain]:
    """For each text and size, the gain over the strongest control."""
    names = {training.candidate: training.name for training in trained}
    return [
        SizeGain(factor, corpus, names[candidate], names[control], len(pairs), fmean(own for own, _ in pairs),
                 fmean(other for _, other in pairs), fmean(other - own for own, other in pairs),
                 paired_test([other - own for own, other in pairs]).interval() if len(pairs) > 1 else None)
        for corpus, factor, control, pairs in _against_strongest(trained, candidate)
    ]  # fmt: skip


def _against_strongest(
    trained: Sequence[Trained], candidate: str
) -> Iterator[tuple[str, int, str, list[tuple[float, float]]]]:
    """For each text and size: the strongest of the controls with the most common seeds, and the losses by seed."""
    for corpus, factor in sorted({(training.corpus, training.factor) for training in trained}):
        losses = _losses([item for item in trained if (item.corpus, item.factor) == (corpus, factor)])
        own = losses.pop(candidate, {})
        pairs = {
            name: [(own[seed], other[seed]) for seed in sorted(own.keys() & other.keys())]
            for name, other in losses.items()
        }
        if max_seeds := max(map(len, pairs.values()), default=0):
            complete = [name for name, common in pairs.items() if len(common) == max_seeds]
            control = min(complete, key=lambda name: fmean(other for _, other in pairs[name]))
            yield corpus, factor, control, pairs[control]


def trends(trained: Sequence[Trained], candidate: str) -> list[Trend]:
    """For each text with two sizes or more, the change of the gain over the strongest control per doubling."""
    points: dict[str, list[tuple[float, float]]] = {}
    for corpus, factor, _, pairs in _against_strongest(trained, candidate):
        points.setdefault(corpus, []).extend((math.log2(factor), other - own) for own, other in pairs)
    result = []
    for corpus, differences in points.items():
        xs, ys = zip(*differences, strict=True)
        if len(set(xs)) < 2 or len(xs) < 4:
            continue
        line = linear_fit(xs, ys)
        assert line.deviation is not None  # noqa: S101 - there are more than two points
        reach = student_quantile((1 + LEVEL) / 2, line.count - 2) * line.deviation / math.sqrt(line.spread)
        result.append(Trend(corpus, line.slope, Interval(line.slope - reach, line.slope + reach, LEVEL)))
    return result


def sizes_text(size_gains: Sequence[SizeGain], drift: Sequence[Trend]) -> str:
    parts = [
        f"{gain.corpus} ×{gain.factor}: {gain.gain:+.4f}"
        + ("" if gain.interval is None else f" {interval_text(*bounds(gain.interval))}")
        + f" against {gain.control} ({gain.seeds} seeds)"
        for gain in size_gains
    ]
    parts += [
        f"on {trend.corpus} the gain changes by {trend.slope:+.4f} "
        f"{interval_text(*bounds(trend.interval))} per doubling: {trend.conclusion}"
        for trend in drift
    ]
    return "; ".join(parts) + "."


def _losses(trained: Sequence[Trained]) -> dict[str, dict[int, float]]:
    """Losses by candidate and seed."""
    losses: dict[str, dict[int, float]] = {}
    for training in trained:
        if training.loss is not None:
            losses.setdefault(training.candidate, {})[training.seed] = training.loss
    return losses


ABLATIONS_FILE = "ablations.jsonl"
"""Trainings of programs without a part, in the run's folder."""
LUCK = (
    "Parents and ablated candidates were chosen for a low loss, which is partly luck: this makes proposals look "
    "worse and ablated components better. In simulated searches without any effect up to a third of moves seem to cost."
)


@dataclass(frozen=True)
class Part:
    """One component: the rise of the loss without it, or the reason why it is unknown."""

    component: str
    ablation: str
    loss: float | None
    gain: Gain | None  # of the whole candidate over the one without the component
    reason: str


@dataclass(frozen=True)
class MoveEffect:
    """The decrease by a move or a component of the held-out loss (nats per token), over pairs of trained programs.

    `source` is "ablation" if one program of a pair is the other without the component, "proposal" if it is the other's
    child by this one move, and "table" for the table of mixers.
    """

    source: str
    move: str
    pairs: int
    gain: float
    interval: Interval
    other_seeds: bool = True  # whether the interval covers other seeds than the one trained with
    chosen: bool = False  # whether one program of each pair was chosen for the loss that is compared

    @property
    def verdict(self) -> str:
        """In words; an interval that contains zero shows no effect, and luck may have the sign of what was chosen."""
        if self.interval.crosses_zero:
            return "not told apart"
        effect = ("pays" if self.gain > 0 else "costs") + ("" if self.other_seeds else " with this seed")
        lucky = self.chosen and (self.gain > 0) == (self.source == "ablation")
        return f"{effect}, or the {'program' if self.gain > 0 else 'parent'} was lucky" if lucky else effect


def move_effects(records: Sequence[pb.Candidate], trained: Sequence[Trained] = ()) -> list[MoveEffect]:
    """The gain of each move in a run: ablations before proposals, the largest gain first.

    `trained` are the trainings of `asi-arch ablate --programs`, paired by seed. Otherwise a pair is one difference of
    losses over the seeds and held-out blocks that both programs share. Its deviation is pooled from the moves with
    several pairs and from the programs with several seeds; without any, the interval is that of the one pair over
    held-out blocks.
    """
    completed = [item for item in records if not any(seed.HasField("stopped") for seed in item.training.seeds)]
    by_id = {record.id: record for record in completed}
    gains = defaultdict[tuple[str, str], list[Gain]](list)
    for record in completed:
        ablated, parent = by_id.get(record.request.ablation_of), by_id.get(record.proposal.parent)
        if record.kind == pb.KIND_ABLATION and ablated is not None and (gain := gain_over(record, ablated)):
            gains["ablation", record.request.without_component].append(gain)
        elif record.kind == pb.KIND_PROPOSAL and parent is not None and parent.stage == record.stage:
            change = _single_change(record, parent)
            if change and (gain := gain_over(parent, record)):
                gains["proposal", change].append(gain)
    seeds = [[math.sqrt(2) * seed.loss for seed in record.training.seeds] for record in completed]
    groups = [*seeds, *([item.mean for item in same] for same in gains.values())]
    several = [group for group in groups if len(group) > 1]
    deviation = pooled_noise(several) if several else None
    effects = []
    for original in dict.fromkeys(item.candidate for item in trained if item.candidate in by_id):
        own = [item for item in trained if item.ablation_of in ("", original)]
        names = {item.candidate: "" for item in own if item.candidate not in by_id}
        effects += [
            MoveEffect("ablation", f"{original} against {item.name}", item.seeds, item.rise, item.interval)
            for item in variants_of(own, original, names)
        ]
    for (source, move), same in gains.items():
        mean = fmean(gain.mean for gain in same)
        between = deviation and paired_test([gain.mean for gain in same], deviation).interval()
        covered = between is not None or same[0].seeds > 1
        effects.append(MoveEffect(source, move, len(same), mean, between or same[0].interval, covered, chosen=True))
    return sorted(effects, key=lambda effect: (effect.source, -effect.gain))


def _single_change(record: pb.Candidate, parent: pb.Candidate) -> str:
    """The one move or component in which a child differs from its parent; empty for several or none."""
    if record.proposal.moves:
        return record.proposal.moves[0] if len(record.proposal.moves) == 1 else ""
    own, before = (set(side.proposal.components or side.analysis.components) for side in (record, parent))
    added, removed = own - before, before - own
    if len(added | removed) != 1:
        return ""
    return next(iter(added), "") or f"no {next(iter(removed))}"


@dataclass(frozen=True)
class Variant:
    """A variant without one part: the rise of the loss against the candidate, paired by seed."""

    name: str
    description: str
    parameters: int | None
    seeds: int
    loss: float
    rise: float
    interval: Interval
    p: float  # one-sided, for a rise of the loss; Holm's correction over the variants


def variants_of(trained: Sequence[Trained], candidate: str, descriptions: Mapping[str, str]) -> list[Variant]:
    """The variants that share two seeds or more with the candidate, the largest rise of the loss first."""
    parameters = {training.candidate: training.parameters for training in trained}
    losses, tests = _losses(trained), {}
    for name in descriptions:
        shared = sorted(set(losses.get(name, {})) & set(losses.get(candidate, {})))
        if len(shared) > 1:
            tests[name] = shared, paired_test([losses[name][seed] - losses[candidate][seed] for seed in shared])
    adjusted = holm([test.p for _, test in tests.values()])
    return sorted(
        (
            Variant(name, descriptions[name], parameters[name], len(shared), fmean(losses[name][s] for s in shared),
                    test.effect, test.interval(), p)
            for (name, (shared, test)), p in zip(tests.items(), adjusted, strict=True)
        ),
        key=lambda training: -training.rise,
    )  # fmt: skip


def ablations_of(records: Sequence[pb.Candidate], candidate: str) -> list[pb.Candidate]:
    return [record for record in records if record.kind == pb.KIND_ABLATION and record.request.ablation_of == candidate]


def parts(original: pb.Candidate, records: Sequence[pb.Candidate]) -> list[Part]:
    """The effect of each component, largest first; unmeasured ones last, with the reason."""
    between, results = seed_noise(records), []
    for ablation in ablations_of(records, original.id):
        loss = loss_of(ablation)
        gain = None if loss is None else gain_over(ablation, original)
        known = None if gain is None else widened(gain, between)
        component, reason = ablation.request.without_component, ablation.rejection.reason
        results.append(Part(component, ablation.id, loss, known, reason))
    return sorted(results, key=lambda part: (part.gain is None, -(part.gain.mean if part.gain else 0.0)))


def part_row(part: Part) -> dict[str, object]:
    low, high = bounds(part.gain.interval if part.gain else None)
    return {
        "component": part.component, "ablation": part.ablation, "loss_without": part.loss,
        "brings": part.gain.mean if part.gain else None, "low": low, "high": high,
        "verdict": verdict_of(part), "reason": part.reason or None,
    }  # fmt: skip


def verdict_of(part: Part) -> str:
    """In words; an interval that contains zero shows no effect."""
    if part.gain is None:
        return "not measured"
    return part.gain.conclusion.replace("better", "carries").replace("worse", "harms")
