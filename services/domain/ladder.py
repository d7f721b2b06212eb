"""The way up: who is trained again at which stage, with which seeds, and what came of it.

Rung 0 is the search itself. Every stage above it is one rung; the last one gives the verdicts. All that is trained at
a rung in one round, candidates and controls, gets the same seeds, which nothing else of the run has used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from services.domain.promotion import PromotionPolicy, Result, Rung, decide, reason

Losses = tuple[tuple[int, float], ...]  # by seed
MOST_SEEDS = 99
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stage:
    """One rung above the search: a scale, how many fresh seeds, and all that is set otherwise than the scale says."""

    scale: str
    seeds: int
    overrides: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise ValueError(f"a stage takes 1 to {MOST_SEEDS} seeds, not {self.seeds}")


@dataclass(frozen=True, slots=True)
class Promote:
    """Train a candidate again with seeds and held-out data that no selection has seen."""

    candidate: str
    round: int
    rung: int
    stage: Stage
    seeds: tuple[int, ...]
    reason: str
    match: int | None = None  # parameters that its width is to be chosen for


@dataclass(frozen=True, slots=True)
class Ladder:
    """Where everybody stands. ``rungs`` and ``roots`` begin with the search's; those above begin anew every round."""

    rounds: int = 0
    open: bool = False  # a round has begun and has no verdicts yet
    rungs: tuple[Rung, ...] = ()
    roots: tuple[Result | None, ...] = ()
    climbing: frozenset[tuple[str, int]] = frozenset()  # who is being trained, and at which rung
    accompanied: frozenset[int] = frozenset()  # rungs to which the controls were sent in this round
    verified: tuple[tuple[str, Losses], ...] = ()  # at the last rung, in this round

    def is_climbing(self, candidate: str) -> bool:
        """Whether a result of this candidate is awaited at any rung."""
        return any(name == candidate for name, _ in self.climbing)


def searched(ladder: Ladder, result: Result, root: bool) -> Ladder:
    """The ladder after one more result of the search."""
    return _measured(ladder, 0, result, root)


def arrived(ladder: Ladder, rung: int, candidate: str, result: Result | None, root: bool) -> Ladder:
    """The ladder after a training above the search ended; ``result`` is None where it failed."""
    ladder = replace(ladder, climbing=ladder.climbing - {(candidate, rung)})
    return ladder if result is None else _measured(ladder, rung, result, root)


def verified(ladder: Ladder, candidate: str, losses: Losses) -> Ladder:
    """The ladder after a result of the last rung, which the verdicts rest on; empty where the training failed."""
    return replace(ladder, verified=(*ladder.verified, (candidate, losses)))


def climb(
    ladder: Ladder, promotion: PromotionPolicy, stages: Sequence[Stage], controls: Sequence[str], over: bool
) -> tuple[Ladder, tuple[Promote, ...]]:
    """Who goes up now, rung by rung. ``over`` says that the search has ended for good.

    The controls go to a rung together with the first candidate that gets there, and again in every round.
    """
    promoted: list[Promote] = []
    for rung, stage in enumerate(stages):
        ended = over and not any(at <= rung for _, at in ladder.climbing)
        baseline = _at(ladder.roots, rung, None)
        kept, chosen = decide(promotion, _at(ladder.rungs, rung, Rung()), baseline, ended)
        ladder = replace(ladder, rungs=_with(ladder.rungs, rung, kept, Rung()))
        if chosen and baseline is not None:
            reasons = {one.candidate: reason(one, baseline) for one in chosen}
            matches = {one.candidate: promotion.budget.matched(one, baseline) for one in chosen}
            ladder, more = _sent(ladder, rung + 1, stage, reasons, controls)
            promoted += [replace(one, match=matches.get(one.candidate)) for one in more]
    return ladder, tuple(promoted)


def under_way(ladder: Ladder, stages: Sequence[Stage]) -> tuple[Promote, ...]:
    """All that is being trained above the search, asked for once more."""
    return tuple(
        Promote(one, ladder.rounds, rung, stages[rung - 1], _seeds(ladder, rung, stages[rung - 1]), "begun again")
        for one, rung in sorted(ladder.climbing)
    )


def kept(ladder: Ladder, stages: Sequence[Stage]) -> Ladder:
    """The ladder with these stages; who was on the way to one that there is not any more stays where he was."""
    return replace(ladder, climbing=frozenset(one for one in ladder.climbing if one[1] <= len(stages)))


def closed(ladder: Ladder) -> Ladder:
    """The ladder after the verdicts of its round."""
    return replace(ladder, open=False)


def ladder_to_json(ladder: Ladder) -> dict[str, object]:
    """Plain JSON values; :func:`ladder_from_json` reads them back exactly."""
    plain = asdict(ladder)
    rungs = [{**asdict(rung), "promoted": sorted(rung.promoted)} for rung in ladder.rungs]
    return plain | {
        "rungs": rungs,
        "climbing": sorted(list(one) for one in ladder.climbing),
        "accompanied": sorted(ladder.accompanied),
    }


def ladder_from_json(value: Mapping[str, object]) -> Ladder:
    """The ladder that :func:`ladder_to_json` wrote."""
    plain: dict[str, object] = dict(value)
    return Ladder(
        **plain
        | {
            "rungs": tuple(_rung_from_json(one) for one in plain["rungs"]),  # type: ignore[attr-defined]
            "roots": tuple(one and Result(**one) for one in plain["roots"]),  # type: ignore[attr-defined]
            "climbing": frozenset((name, rung) for name, rung in plain["climbing"]),  # type: ignore[attr-defined]
            "accompanied": frozenset(plain["accompanied"]),  # type: ignore[call-overload]
            "verified": tuple(
                (name, tuple((int(seed), float(loss)) for seed, loss in losses))
                for name, losses in plain["verified"]  # type: ignore[attr-defined]
            ),
        }
    )


def _rung_from_json(value: Mapping[str, object]) -> Rung:
    plain: dict[str, object] = dict(value)
    return Rung(
        waiting=tuple(Result(**one) for one in plain["waiting"]),  # type: ignore[attr-defined]
        kept=tuple(Result(**one) for one in plain["kept"]),  # type: ignore[attr-defined]
        promoted=frozenset(plain["promoted"]),  # type: ignore[call-overload]
        count=int(plain["count"]),  # type: ignore[call-overload]
    )


def _measured(ladder: Ladder, rung: int, result: Result, root: bool) -> Ladder:
    if root:
        return replace(ladder, roots=_with(ladder.roots, rung, result, None))
    known = _at(ladder.rungs, rung, Rung())
    known = replace(known, waiting=(*known.waiting, result))
    return replace(ladder, rungs=_with(ladder.rungs, rung, known, Rung()))


def _sent(
    ladder: Ladder, rung: int, stage: Stage, reasons: Mapping[str, str], controls: Sequence[str]
) -> tuple[Ladder, list[Promote]]:
    """The chosen on their way to ``rung``, behind the controls if those are not on it in this round."""
    if not ladder.open:
        ladder = replace(
            ladder, rounds=ladder.rounds + 1, open=True, verified=(), accompanied=frozenset(),
            rungs=ladder.rungs[:1], roots=ladder.roots[:1],
        )  # fmt: skip
    going = dict(reasons)
    if rung not in ladder.accompanied:
        going = dict.fromkeys(controls, "control: what a discovery has to beat") | going
    seeds = _seeds(ladder, rung, stage)
    ladder = replace(
        ladder,
        climbing=ladder.climbing | {(one, rung) for one in going},
        accompanied=ladder.accompanied | {rung},
    )
    return ladder, [Promote(one, ladder.rounds, rung, stage, seeds, why) for one, why in going.items()]


def _seeds(ladder: Ladder, rung: int, stage: Stage) -> tuple[int, ...]:
    first = 1000 * ladder.rounds + 100 * (rung - 1) + 1
    return tuple(range(first, first + stage.seeds))


def _at(values: Sequence[T], place: int, empty: T) -> T:
    return values[place] if place < len(values) else empty


def _with(values: Sequence[T], place: int, value: T, empty: T) -> tuple[T, ...]:
    filled = [*values, *[empty] * (place + 1 - len(values))]
    filled[place] = value
    return tuple(filled)
