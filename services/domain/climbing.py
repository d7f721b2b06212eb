"""The part of a run's policy that is about what comes after the search: training again, and the verdicts."""

from services.domain import ladder as ladders
from services.domain.copies import replace
from services.domain.discovery import Finding, findings
from services.domain.ladder import Losses, Promote
from services.domain.promotion import Result
from services.domain.run_state import GOING_ON, RunPolicy, RunState, candidate_id

CONTROLS = ("gated_delta_net", "delta_net_value_skip")
"""Names in the zoo that a discovery has to beat beside the root."""


def climb(state: RunState, policy: RunPolicy) -> tuple[RunState, tuple[Promote, ...]]:
    """Who is trained again now: while the search goes on, as soon as somebody deserves it, and at its end."""
    if policy.promotion is None or state.phase not in GOING_ON or state.root_failed:
        return state, ()
    over = state.phase in ("draining", "verifying") and not state.in_flight
    ladder, promoted = ladders.climb(state.ladder, policy.promotion, policy.stages, controls(state, policy), over)
    return replace(state, ladder=ladder), promoted


def verified(
    state: RunState, candidate: str, rung: int | None, losses: Losses, result: Result | None, policy: RunPolicy
) -> RunState:
    """A result from above the search; a second one, or one that nobody waits for, changes nothing."""
    ladder, root = state.ladder, candidate == candidate_id(1)
    for at in sorted(at for name, at in ladder.climbing if name == candidate and rung in (None, at)):
        ladder = ladders.arrived(ladder, at, candidate, result, root)
        if at == len(policy.stages):
            ladder = ladders.verified(ladder, candidate, losses)
    return replace(state, ladder=ladder)


def verdicts(state: RunState, policy: RunPolicy) -> tuple[RunState, tuple[Finding, ...]]:
    """The verdicts on all finalists of a round together, corrected for every candidate that the run has tried."""
    if not state.ladder.open:
        return state, ()
    state = replace(state, ladder=ladders.closed(state.ladder))
    losses = {name: dict(measured) for name, measured in state.ladder.verified}
    measured = {name: losses[name] for name in controls(state, policy) if losses.get(name)}
    candidates = {name: own for name, own in losses.items() if name not in _baseline_ids(policy)}
    if not measured:
        return state, ()
    return state, findings(candidates, measured, max(state.proposals_asked, len(candidates)), policy.discovery)


def controls(state: RunState, policy: RunPolicy) -> list[str]:
    """The root and the baselines that a discovery has to beat, as far as they were measured."""
    wanted = {policy.baselines[0], *CONTROLS}
    names = [candidate_id(number) for number, name in enumerate(policy.baselines, 1) if name in wanted]
    return [name for name in names if name not in state.baselines_failed]


def _baseline_ids(policy: RunPolicy) -> frozenset[str]:
    """Baselines are asked for first, so their numbers are known."""
    return frozenset(candidate_id(number) for number in range(1, 1 + len(policy.baselines)))
