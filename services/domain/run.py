"""The policy of a run: a state and a fact give the next state and the resulting decisions.

Decisions are seats, pool updates, promotions, verdicts and the end of the run. Facts carry the time since the epoch.
"""

import math
from dataclasses import astuple, replace

from services.domain import ladder as rungs
from services.domain import pool as pools
from services.domain import run_state as facts
from services.domain.discovery import Finding, Outcome, findings
from services.domain.ladder import Promote
from services.domain.pool import Entry
from services.domain.run_state import GOING_ON, Decision, RunPolicy, RunState, Seat, Spent, candidate_id

MIXED = (
    "the trainings of this round differ in held-out text or precision: engineers need the same corpus, "
    "ASI_ENGINEER_TEXT_SEED and precision"
)
LEAST_LEVEL = 1e-6
"""A round may use half of this share of the level even if less is left, so that its trials fit into 32 bits."""


def step(state: RunState, fact: facts.Fact, policy: RunPolicy) -> tuple[RunState, tuple[Decision, ...]]:
    """The state after one fact, and the resulting decisions in order."""
    state, updates = _take(replace(state, latest=max(state.latest, fact.time)), fact, policy)
    state, seats = _fill(state, policy)
    return state, (*updates, *seats)


def exhausted(state: RunState, policy: RunPolicy) -> str | None:
    """The exhausted part of the budget, in words; None if there is none. Seats in flight count as candidates."""
    budget = policy.budget
    used: tuple[tuple[str, float, float | None], ...] = (
        ("candidates", state.proposals_asked, budget.candidates),
        ("seconds", state.seconds(state.latest), budget.seconds),
        ("GPU seconds", state.spent.gpu_seconds, budget.gpu_seconds),
        ("tokens", state.spent.tokens, budget.tokens),
        ("dollars", state.spent.money, budget.money),
    )
    for unit, spent, limit in used:
        if limit is not None and spent >= limit:
            return f"the budget of {limit:,.12g} {unit.removesuffix('s') if limit == 1 else unit} is used up"
    return "what is left of the budget does not cover another question to a model" if state.unpaid else None


def _take(state: RunState, fact: facts.Fact, policy: RunPolicy) -> tuple[RunState, tuple[Decision, ...]]:
    match fact:
        case facts.Started(time):
            return replace(state, started=time), ()
        case facts.Paused(time, reason) if state.phase in GOING_ON:
            return replace(state, phase="paused", paused_at=time, reason=reason), ()
        case facts.Resumed(time) if state.phase not in GOING_ON:
            return _continued(state, time, policy), ()
        case facts.Forked(time, other_rules):
            ladder = rungs.limited(rungs.reopened(state.ladder) if other_rules else state.ladder, policy.stages)
            proposals = frozenset(name for name in state.in_flight if name.startswith("c"))  # without ablations
            state = _continued(replace(state, ladder=ladder, in_flight=proposals, trained=frozenset()), time, policy)
            seats = [_seat(int(name[1:]), policy, name in state.baselines_open) for name in sorted(state.in_flight)]
            return state, (*seats, *rungs.under_way(state.ladder, policy.stages))
        case facts.Stopped(time, reason, finished):
            paused_at = state.paused_at if state.paused_at is not None else time
            over = replace(state, phase="finished" if finished else "stopped", reason=reason, paused_at=paused_at)
            return over, ()
        case facts.Spending(_, spent):
            total = Spent(*(a + b for a, b in zip(astuple(state.spent), astuple(spent), strict=True)))
            return replace(state, spent=total), ()
        case facts.AblationSeat(_, candidate):
            return replace(state, in_flight=state.in_flight | {candidate}, numbers=state.numbers + 1), ()
        case facts.Trained(_, candidate):
            return replace(state, trained=state.trained | ({candidate} & state.in_flight)), ()
        case facts.Retried():
            return _again(state, fact, policy), ()
        case facts.AblationRequested():
            return _ablate(state, fact, policy)
        case facts.Ended():
            return _end(state, fact, policy)
        case facts.Rescored(_, candidate, value):
            pool = pools.rescored(state.pool, candidate, value)
            return replace(state, pool=pool, ladder=rungs.rescored(state.ladder, candidate, value)), ()
        case facts.Verified():
            return _verified(state, fact, policy), ()
        case _:
            return state, ()


def _ablate(state: RunState, fact: facts.AblationRequested, policy: RunPolicy) -> tuple[RunState, tuple[Decision, ...]]:
    """Manual requests always; others while the run is active and within its budget of ablations."""
    if not fact.by_hand and (state.phase not in GOING_ON or state.ablations_asked >= policy.ablations):
        return state, ()
    number = state.numbers + 1
    name = f"a{number:06d}"
    state = replace(
        state,
        numbers=number,
        in_flight=state.in_flight | {name},
        ablations_asked=state.ablations_asked + (not fact.by_hand),
    )
    return state, (facts.Ablation(name, number, fact.candidate, fact.component, fact.seeds),)


def _continued(state: RunState, time: float, policy: RunPolicy) -> RunState:
    """Continue after a pause or an end, which do not count as time of the run."""
    paused = time - state.paused_at if state.paused_at is not None else 0.0
    phase: facts.Phase = "baselines" if _baselines_missing(state, policy) else "searching"
    paused_seconds = state.paused_seconds + max(0.0, paused)
    return replace(state, phase=phase, paused_at=None, paused_seconds=paused_seconds, unpaid=False, reason="")


def _again(state: RunState, retried: facts.Retried, policy: RunPolicy) -> RunState:
    """Undo the end of the candidate."""
    own = frozenset({retried.candidate})
    seed_program = policy.is_seed_program(retried.candidate)
    return replace(
        state,
        in_flight=state.in_flight | own,
        trained=state.trained - own,
        baselines_open=state.baselines_open | (own if retried.baseline or seed_program else frozenset()),
        baselines_failed=state.baselines_failed - own,
        root_failed=state.root_failed and not retried.root,
        proposals_ended=state.proposals_ended - (retried.proposal and not seed_program),
    )


def _end(state: RunState, ended: facts.Ended, policy: RunPolicy) -> tuple[RunState, tuple[Decision, ...]]:
    if ended.candidate not in state.in_flight:
        return state, ()
    own = {ended.candidate}
    counts = not ended.baseline and ended.proposal and not policy.is_seed_program(ended.candidate)
    state = replace(
        state,
        in_flight=state.in_flight - own,
        trained=state.trained - own,
        baselines_open=state.baselines_open - own,
        proposals_ended=state.proposals_ended + counts,
        root_failed=state.root_failed or (ended.root and ended.rejected),
        unpaid=state.unpaid or ended.unpaid,
        baselines_failed=state.baselines_failed | (own if ended.baseline and ended.rejected else set()),
    )
    # Without promotion no results are stored, which keeps the state small in long runs.
    climbs = policy.promotion is not None and ended.fitness is not None and ended.proposal and not ended.baseline
    if ended.result is not None and (ended.root or climbs):
        state = replace(state, ladder=rungs.measured(state.ladder, 0, ended.result, ended.root))
    if ended.fitness is None:
        return state, ()
    entry = Entry(ended.candidate, ended.fitness, ended.sequence, ended.parent, ended.costs)
    pool, update = pools.entered(state.pool, entry, policy.pool)
    return replace(state, pool=pool), (update,) if update else ()


def _fill(state: RunState, policy: RunPolicy) -> tuple[RunState, tuple[Decision, ...]]:
    """Request candidates for free seats; detect the end of the run."""
    seats: list[Decision] = []
    # If the run works ahead, candidates that wait for verdict and analysis take no seat.
    waiting = min(len(state.trained), policy.seats) if policy.ahead else 0
    while state.phase in ("baselines", "searching"):
        if state.phase == "baselines" and not _baselines_missing(state, policy):
            state = replace(state, phase="searching")
        elif state.root_failed:
            reason = f"the root baseline {policy.baselines[0]} was rejected: there is nothing to compare with"
            state = replace(state, phase="draining", reason=reason)
        elif state.phase == "searching" and (used_up := exhausted(state, policy)):
            state = replace(state, phase="draining", reason=used_up)
        elif len(state.in_flight) - waiting >= policy.seats or not (seat := _next(state, policy)):
            break
        else:
            state = _with_seat(state, seat)
            seats.append(seat)
    state, promoted = _promote(state, policy)
    if state.phase not in ("draining", "verifying") or state.in_flight:
        return state, (*seats, *promoted)
    if state.ladder.climbing:  # the verdicts wait for promoted candidates
        return replace(state, phase="verifying"), (*seats, *promoted)
    state, verdicts = _verdicts(state, policy)
    return replace(state, phase="draining"), (*seats, *promoted, *verdicts, facts.Finish(state.reason))


def _baselines_missing(state: RunState, policy: RunPolicy) -> bool:
    return not _baselines_requested(state, policy) or bool(state.baselines_open)


def _baselines_requested(state: RunState, policy: RunPolicy) -> bool:
    """Whether all baselines and seed programs were requested, which precede the first proposal."""
    return state.baselines_asked >= len(policy.baselines) + len(policy.seed_programs)


def _next(state: RunState, policy: RunPolicy) -> Seat | None:
    """The next seat; None while baselines are in flight, since proposals descend from them."""
    if not _baselines_requested(state, policy):
        return _seat(state.numbers + 1, policy, fixed=True)
    return None if state.baselines_open else _seat(state.numbers + 1, policy, fixed=False)


def _seat(number: int, policy: RunPolicy, fixed: bool) -> Seat:
    """A `fixed` seat is a baseline or seed program, numbered in this order."""
    baseline = policy.baselines[number - 1] if fixed and number <= len(policy.baselines) else ""
    seed_program = policy.seed_programs[number - 1 - len(policy.baselines)] if fixed and not baseline else ""
    return Seat(candidate_id(number), number, baseline, policy.seeds(bool(baseline)), seed_program)


def _with_seat(state: RunState, seat: Seat) -> RunState:
    baseline = bool(seat.baseline or seat.seed_program)
    return replace(
        state,
        numbers=seat.number,
        in_flight=state.in_flight | {seat.candidate},
        baselines_open=state.baselines_open | ({seat.candidate} if baseline else frozenset()),
        baselines_asked=state.baselines_asked + baseline,
        proposals_asked=state.proposals_asked + (not baseline),
    )


def _promote(state: RunState, policy: RunPolicy) -> tuple[RunState, tuple[Promote, ...]]:
    """Candidates to promote now: during the search as soon as they qualify, and at its end."""
    if policy.promotion is None or state.phase not in GOING_ON or state.root_failed:
        return state, ()
    over = state.phase in ("draining", "verifying") and not state.in_flight
    ladder, promoted = rungs.climb(state.ladder, policy.promotion, policy.stages, controls(state, policy), over)
    return replace(state, ladder=ladder), promoted


def _verified(state: RunState, fact: facts.Verified, policy: RunPolicy) -> RunState:
    """Apply a result from above the search; unrequested ones change nothing."""
    ladder, candidate = state.ladder, fact.candidate
    for at in sorted(at for name, at in ladder.climbing if name == candidate and fact.rung in (None, at)):
        ladder = rungs.arrived(ladder, at, candidate, fact.result, root=candidate == candidate_id(1))
        if at == len(policy.stages):
            ladder = rungs.verified(ladder, candidate, fact.losses, fact.conditions)
    return replace(state, ladder=ladder)


def _verdicts(state: RunState, policy: RunPolicy) -> tuple[RunState, tuple[Finding, ...]]:
    """The verdicts on all finalists of a round, corrected for every candidate tried.

    Where no candidate has a true gain, testing some of all those tried uses this share of the level. A round may use
    half of what earlier rounds left, so that the level holds however often a run is extended.
    """
    if not state.ladder.open:
        return state, ()
    state = replace(state, ladder=replace(state.ladder, open=False))
    losses = {name: dict(measured) for name, measured in state.ladder.verified}
    measured = {name: losses[name] for name in controls(state, policy) if name in losses}  # empty if that failed
    # Baselines are requested first, so their ids are known.
    baselines = {candidate_id(number) for number in range(1, 1 + len(policy.baselines))}
    candidates = {name: own for name, own in losses.items() if name not in baselines}
    if not measured:
        return state, ()
    tried = max(state.proposals_asked + len(policy.seed_programs), len(candidates))
    tried += len(state.ladder.earlier & candidates.keys())  # earlier tests count for the correction
    tried = max(tried, math.ceil(2 * len(candidates) / max(1 - state.ladder.level_used, LEAST_LEVEL)))
    if len(state.ladder.conditions) > 1:
        names = tuple(sorted(measured))
        untested = [Finding(name, Outcome.UNDECIDED, MIXED, None, (), tried, controls=names) for name in candidates]
        return state, tuple(untested)
    verdicts = findings(candidates, measured, tried, policy.discovery)
    used = sum(verdict.p is not None for verdict in verdicts) / tried if verdicts else 0.0
    return replace(state, ladder=replace(state.ladder, level_used=state.ladder.level_used + used)), verdicts


def controls(state: RunState, policy: RunPolicy) -> list[str]:
    """The root and the baselines that a discovery has to beat, if they were measured."""
    needed = {policy.baselines[0], *policy.controls}
    names = [candidate_id(number) for number, name in enumerate(policy.baselines, 1) if name in needed]
    return [name for name in names if name not in state.baselines_failed]
