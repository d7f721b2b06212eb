"""Recomputes the verdicts of a log from the losses that it holds."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from services.archive.policies import climb_of_run
from services.archive.scoring import measured_on, program_of
from services.chassis.bus import Logged
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain.discovery import Finding, Outcome, findings, prediction
from services.domain.ladder import Climb, Stage
from services.domain.statistics import Interval
from services.store.projection import read

CONFIRMED = Outcome.CONFIRMED.value
TOLERANCE = 1e-9
"""In nats: the tolerance of a recomputed effect, since the order of summation differs."""


@dataclass(frozen=True)
class Claim:
    """A verdict of the log, and the data needed to reproduce its training.

    `expected` is the prediction interval of one more fresh seed.
    """

    candidate: str
    name: str
    outcome: str
    control: str
    control_name: str
    effect: float
    interval: Interval
    expected: Interval
    tried: int
    seeds: tuple[int, ...]
    stage: str
    overrides: Mapping[str, str]
    program: str
    control_program: str


@dataclass(frozen=True)
class Round:
    """Verdicts of one round by candidate, and the rules that applied."""

    climb: Climb
    proposals: int  # requested until then
    verdicts: dict[str, pb.Discovery]
    confirmed: set[str]  # candidates with a discovery.confirmed


def rounds_of(logged: Sequence[Logged]) -> list[Round]:
    """All rounds of verdicts that were tested, or are said to be confirmed.

    In a fork, a candidate may have been tested before under other rules.
    """
    settings, rounds, proposals = events_pb2.RunSettings(), dict[str, Round](), set[str]()
    for message in logged:
        event = read(message).log.event
        match event.WhichOneof("fact"):
            case "run_started" | "run_forked" as fact:
                settings = getattr(event, fact).settings
            case "candidate_requested" if event.candidate_requested.kind == pb.KIND_PROPOSAL:
                proposals.add(event.candidate)
            case "discovery_confirmed" | "discovery_refuted" as fact:
                verdict, confirmed = getattr(event, fact).discovery, fact == "discovery_confirmed"
                if verdict.HasField("effect") or verdict.confirmed or confirmed or verdict.outcome == CONFIRMED:
                    found = rounds.setdefault(event.cause, Round(climb_of_run(settings), len(proposals), {}, set()))
                    found.verdicts[event.candidate] = verdict
                    found.confirmed.update({event.candidate} if confirmed else ())
    return list(rounds.values())


def claims_of(records: Sequence[pb.Candidate], rounds: Iterable[Round]) -> tuple[tuple[Claim, ...], tuple[str, ...]]:
    """The last verdict on each candidate, and the differences of verdicts from those recomputed from the losses."""
    by_id = {record.id: record for record in records}
    claims: dict[str, Claim] = {}
    differences: list[str] = []
    for tested in rounds:
        try:
            found, differing = _recomputed(tested, by_id)
        except (ValueError, ArithmeticError) as error:
            names = ", ".join(sorted(tested.verdicts))
            differences.append(f"the claims on {names} cannot be recomputed from the log: {error}")
            continue
        claims |= found
        differences += differing
    order = {"confirmed": 0, "undecided": 1, "refuted": 2}
    ranked = sorted(claims.values(), key=lambda claim: (order.get(claim.outcome, 3), -claim.effect))
    return tuple(ranked), tuple(differences)


def _recomputed(tested: Round, by_id: Mapping[str, pb.Candidate]) -> tuple[dict[str, Claim], list[str]]:
    """The claims of a round by candidate, and their differences. Raises ValueError for an impossible verdict."""
    involved = set(tested.verdicts)
    for verdict in tested.verdicts.values():
        involved |= {verdict.control, *verdict.controls}
        interval = verdict.interval
        numbers = [verdict.effect, verdict.p_value, verdict.adjusted_p_value]
        numbers += [interval.low, interval.high, interval.level]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a recorded number is not finite")
    if missing := sorted(involved - by_id.keys()):
        raise ValueError(f"there is no candidate {', '.join(missing)}")
    losses = {name: _losses(by_id[name], verdict.seeds) for name, verdict in tested.verdicts.items()}
    policy = tested.climb.discovery
    claims, differences = dict[str, Claim](), list[str]()
    for name, verdict in tested.verdicts.items():
        controls = {control: _losses(by_id[control], verdict.seeds) for control in verdict.controls}
        again = {finding.candidate: finding for finding in findings(losses, controls, verdict.tried, policy)}[name]
        differences += _omissions(name, verdict, tested.proposals, by_id)
        if again.interval is None:
            differences.append(f"the claim on {name} cannot be recomputed from the log: {again.reason}")
            continue
        differences += _verdict_differences(name, verdict, again, again.interval, policy.level)
        if not (verdict.outcome == CONFIRMED) == verdict.confirmed == (name in tested.confirmed):
            differences.append(f"the claim on {name} is confirmed in some of its fields and its fact, but not in all")
        claims[name] = _claim(by_id[name], by_id[verdict.control], verdict, tested.climb.stages[-1])
    return claims, differences


def _claim(record: pb.Candidate, control: pb.Candidate, verdict: pb.Discovery, stage: Stage) -> Claim:
    interval = Interval(verdict.interval.low, verdict.interval.high, verdict.interval.level)
    return Claim(
        candidate=record.id,
        name=record.proposal.name,
        outcome=verdict.outcome,
        control=verdict.control,
        control_name=control.proposal.name,
        effect=verdict.effect,
        interval=interval,
        expected=prediction(verdict.effect, interval, len(verdict.seeds)),
        tried=verdict.tried,
        seeds=tuple(verdict.seeds),
        stage=stage.scale,
        overrides=dict(stage.overrides),
        program=program_of(record),
        control_program=program_of(control),
    )


def _losses(record: pb.Candidate, seeds: Sequence[int]) -> dict[int, float]:
    """The losses of these seeds in verification trainings."""
    return {seed: result.loss for seed, result in _round_of(record, seeds).items() if seed in seeds}


def _verdict_differences(
    candidate: str, verdict: pb.Discovery, again: Finding, interval: Interval, level: float
) -> Iterator[str]:
    numbers = {
        "effect": (verdict.effect, again.effect),
        "interval.low": (verdict.interval.low, interval.low),
        "interval.high": (verdict.interval.high, interval.high),
        "p_value": (verdict.p_value, again.p),
        "adjusted_p_value": (verdict.adjusted_p_value, again.adjusted_p),
        "interval.level": (verdict.interval.level, interval.level),
    }
    for name, (recorded, recomputed) in numbers.items():
        if recomputed is None or not abs(recorded - recomputed) <= TOLERANCE:
            yield f"the claim on {candidate}: {name} is recorded as {recorded:.6g}, but the losses give {recomputed}"
    if (verdict.outcome, verdict.control) != (again.outcome.value, again.control):
        yield (
            f"the claim on {candidate} is recorded as {verdict.outcome} against {verdict.control}, but the losses give "
            f"{again.outcome.value} against {again.control}: {again.reason}"
        )
        if verdict.outcome == CONFIRMED and again.adjusted_p is not None and again.adjusted_p <= level:
            yield (
                f"the claim on {candidate} may be from an earlier version, which confirmed a gain over the strongest "
                "control alone; by today's rule, a gain over every control, it does not hold"
            )


def _omissions(
    candidate: str, verdict: pb.Discovery, proposals: int, by_id: Mapping[str, pb.Candidate]
) -> Iterator[str]:
    """What a verdict leaves out of its round: proposals, controls or seeds; and whether text or precision differ."""
    claim = f"the claim on {candidate}"
    beside = {name: _round_of(record, verdict.seeds) for name, record in by_id.items()}
    if verdict.tried < proposals:
        yield f"{claim} is corrected for {verdict.tried} candidates, but {proposals} were proposed before it"
    baselines = {name for name, seeds in beside.items() if seeds and by_id[name].kind == pb.KIND_BASELINE}
    if omitted := sorted(baselines - set(verdict.controls)):
        yield f"{claim} omits {', '.join(omitted)}, trained again with the same seeds"
    trained = [beside[name] for name in (candidate, *verdict.controls)]
    if left_out := sorted(set(trained[0]).intersection(*trained) - set(verdict.seeds)):
        yield f"{claim} omits the seeds {', '.join(map(str, left_out))} of these trainings"
    if len({measured_on(seed) for seeds in trained for seed in seeds.values()}) > 1:
        yield f"{claim} compares losses on different text or in different precision"


def _round_of(record: pb.Candidate, seeds: Sequence[int]) -> dict[int, pb.SeedResult]:
    """All seeds of the verification trainings that have one of these seeds."""
    trainings = [{seed.seed: seed for seed in stage.training.seeds} for stage in record.verifications]
    return {seed: result for each in trainings if not each.keys().isdisjoint(seeds) for seed, result in each.items()}
