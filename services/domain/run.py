"""The run's policy: which seat is asked for next, when the pool changes, when a run is over.

Pure: a state and a fact give the next state and the decisions that follow. Time comes in with the facts, as seconds
since the epoch.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

from services.domain import pool as pools
from services.domain.discovery import Finding, findings
from services.domain.pool import Entry, PoolUpdate
from services.domain.run_state import GOING_ON, Losses, Phase, RunPolicy, RunState, Spent

CONTROLS = ("gated_delta_net", "delta_net_value_skip")
"""Names in the zoo that a discovery has to beat beside the root."""


@dataclass(frozen=True, slots=True)
class Started:
    time: float


@dataclass(frozen=True, slots=True)
class Paused:
    time: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resumed:
    time: float


@dataclass(frozen=True, slots=True)
class Stopped:
    time: float
    reason: str
    finished: bool


@dataclass(frozen=True, slots=True)
class Spending:
    """Work or thinking that was paid for, whatever came of it."""

    time: float
    spent: Spent


@dataclass(frozen=True, slots=True)
class Asked:
    """A seat that the console asked for: an ablation, outside the budget of proposals."""

    time: float
    candidate: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A candidate was archived. ``fitness`` is None for a rejection and for what could not be scored."""

    time: float
    candidate: str
    sequence: int
    fitness: float | None
    parent: str | None
    baseline: bool
    root: bool
    rejected: bool
    proposal: bool = True


@dataclass(frozen=True, slots=True)
class Verified:
    """A finalist or control was trained again; ``losses`` is empty where that failed."""

    time: float
    candidate: str
    losses: Losses


Fact = Started | Paused | Resumed | Stopped | Spending | Asked | Ended | Verified


@dataclass(frozen=True, slots=True)
class Seat:
    """Ask for one more candidate."""

    candidate: str
    number: int
    baseline: str  # its name in the zoo; empty for a proposal
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over."""

    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Train a candidate again with seeds and held-out data that no selection has seen."""

    candidate: str
    round: int
    seeds: tuple[int, ...]


Decision = Seat | PoolUpdate | Promote | Finding | Finish


def step(state: RunState, fact: Fact, policy: RunPolicy) -> tuple[RunState, tuple[Decision, ...]]:
    """The state after one fact, and what follows from it, in order."""
    state, updates = _take(replace(state, latest=max(state.latest, fact.time)), fact, policy)
    state, seats = _fill(state, policy)
    return state, (*updates, *seats)


def exhausted(state: RunState, policy: RunPolicy) -> str | None:
    """Which part of the budget is used up, in words; None while it lasts. Seats in flight count as candidates."""
    budget = policy.budget
    used: tuple[tuple[str, float, float | None], ...] = (
        ("candidates", state.proposals_asked, budget.candidates),
        ("seconds", state.seconds(state.latest), budget.seconds),
        ("gpu_seconds", state.spent.gpu_seconds, budget.gpu_seconds),
        ("tokens", state.spent.tokens, budget.tokens),
        ("money", state.spent.money, budget.money),
    )
    for name, spent, limit in used:
        if limit is not None and spent >= limit:
            return f"the budget of {limit:g} {name.replace('_', ' ')} is used up"
    return None


def candidate_id(number: int) -> str:
    """Ids sort by age as text up to a million."""
    return f"c{number:06d}"


def _take(state: RunState, fact: Fact, policy: RunPolicy) -> tuple[RunState, tuple[Decision, ...]]:
    match fact:
        case Started(time):
            return replace(state, started=time), ()
        case Paused(time, reason) if state.phase in GOING_ON:
            return replace(state, phase="paused", paused_at=time, reason=reason), ()
        case Resumed(time) if state.phase not in GOING_ON:
            paused = time - state.paused_at if state.paused_at is not None else 0.0
            phase: Phase = "baselines" if _baselines_missing(state, policy) else "searching"
            phase = "verifying" if state.verifying else phase
            return replace(
                state,
                settled=False,
                phase=phase,
                paused_at=None,
                paused_seconds=state.paused_seconds + max(0.0, paused),
                reason="",
            ), ()
        case Stopped(time, reason, finished):
            phase = "finished" if finished else "stopped"
            paused_at = state.paused_at if state.paused_at is not None else time
            return replace(state, phase=phase, reason=reason, paused_at=paused_at), ()
        case Spending(_, spent):
            return replace(state, spent=_sum(state.spent, spent)), ()
        case Asked(_, candidate):
            return replace(state, in_flight=state.in_flight | {candidate}, numbers=state.numbers + 1), ()
        case Ended():
            return _end(state, fact, policy)
        case Verified(_, candidate, losses) if candidate in state.verifying:
            verified = (*state.verified, (candidate, losses))
            return replace(state, verifying=state.verifying - {candidate}, verified=verified), ()
        case _:
            return state, ()


def _end(state: RunState, ended: Ended, policy: RunPolicy) -> tuple[RunState, tuple[Decision, ...]]:
    if ended.candidate not in state.in_flight:
        return state, ()
    state = replace(
        state,
        in_flight=state.in_flight - {ended.candidate},
        baselines_open=state.baselines_open - {ended.candidate},
        proposals_ended=state.proposals_ended + (not ended.baseline and ended.proposal),
        root_failed=state.root_failed or (ended.root and ended.rejected),
        baselines_failed=state.baselines_failed | ({ended.candidate} if ended.baseline and ended.rejected else set()),
    )
    if ended.fitness is None:
        return state, ()
    entry = Entry(ended.candidate, ended.fitness, ended.sequence, ended.parent)
    pool, update = pools.entered(state.pool, entry, policy.pool)
    return replace(state, pool=pool), (update,) if update else ()


def _fill(state: RunState, policy: RunPolicy) -> tuple[RunState, tuple[Decision, ...]]:
    """Give out free seats while there is something to ask for; find the end of the run."""
    seats: list[Decision] = []
    while state.phase in ("baselines", "searching"):
        if state.phase == "baselines" and not _baselines_missing(state, policy):
            state = replace(state, phase="searching")
        elif state.root_failed or (state.phase == "searching" and exhausted(state, policy)):
            state = replace(state, phase="draining", reason=_reason(state, policy))
        elif len(state.in_flight) >= policy.seats or not (seat := _next(state, policy)):
            break
        else:
            state = _asked(state, seat)
            seats.append(seat)
    if state.phase == "draining" and not state.in_flight:
        state, promoted = _promote(state, policy)
        seats += promoted
    if state.phase == "verifying" and not state.verifying:
        seats += _findings(state, policy)
        state = replace(state, phase="draining", settled=True)
    if state.phase == "draining" and not state.in_flight:
        seats.append(Finish(state.reason))
    return state, tuple(seats)


def _promote(state: RunState, policy: RunPolicy) -> tuple[RunState, list[Decision]]:
    """The finalists and the controls, to be trained again: once per drain, and only if somebody is left to verify."""
    if not policy.verify or state.settled or state.root_failed:
        return state, []
    entries = pools.rank((*state.pool.members, *state.pool.pending))
    known = _baseline_ids(policy)
    finalists = [entry.id for entry in entries if entry.id not in known][: policy.verify]
    if not finalists:
        return state, []
    number = state.rounds + 1
    seeds = tuple(1000 * number + seed for seed in range(1, 1 + policy.discovery.seeds))
    chosen = [*_controls(state, policy), *finalists]
    state = replace(state, phase="verifying", rounds=number, verifying=frozenset(chosen), verified=())
    return state, [Promote(one, number, seeds) for one in chosen]


def _findings(state: RunState, policy: RunPolicy) -> Sequence[Finding]:
    """The verdicts on all finalists together, corrected for every candidate that the run has tried."""
    losses = {name: dict(measured) for name, measured in state.verified}
    controls = {name: losses[name] for name in _controls(state, policy) if losses.get(name)}
    candidates = {name: measured for name, measured in losses.items() if name not in _baseline_ids(policy)}
    if not controls:
        return ()
    return findings(candidates, controls, max(state.proposals_asked, len(candidates)), policy.discovery)


def _controls(state: RunState, policy: RunPolicy) -> list[str]:
    """The root and the baselines that a discovery has to beat, as far as they were measured."""
    wanted = {policy.baselines[0], *CONTROLS}
    names = [candidate_id(number) for number, name in enumerate(policy.baselines, 1) if name in wanted]
    return [name for name in names if name not in state.baselines_failed]


def _baseline_ids(policy: RunPolicy) -> frozenset[str]:
    """Baselines are asked for first, so their numbers are known."""
    return frozenset(candidate_id(number) for number in range(1, 1 + len(policy.baselines)))


def _reason(state: RunState, policy: RunPolicy) -> str:
    if state.root_failed:
        return f"the root baseline {policy.baselines[0]} was rejected: there is nothing to compare with"
    return exhausted(state, policy) or ""


def _baselines_missing(state: RunState, policy: RunPolicy) -> bool:
    return state.baselines_asked < len(policy.baselines) or bool(state.baselines_open)


def _next(state: RunState, policy: RunPolicy) -> Seat | None:
    """The next seat; None while baselines are on their way, since proposals are drawn from what they measured."""
    number = state.numbers + 1
    if state.baselines_asked < len(policy.baselines):
        return Seat(candidate_id(number), number, policy.baselines[state.baselines_asked], policy.seeds(baseline=True))
    if state.baselines_open:
        return None
    return Seat(candidate_id(number), number, "", policy.seeds(baseline=False))


def _asked(state: RunState, seat: Seat) -> RunState:
    baseline = bool(seat.baseline)
    return replace(
        state,
        numbers=seat.number,
        in_flight=state.in_flight | {seat.candidate},
        baselines_open=state.baselines_open | ({seat.candidate} if baseline else frozenset()),
        baselines_asked=state.baselines_asked + baseline,
        proposals_asked=state.proposals_asked + (not baseline),
    )


def _sum(first: Spent, second: Spent) -> Spent:
    return Spent(*(left + right for left, right in zip(astuple(first), astuple(second), strict=True)))
