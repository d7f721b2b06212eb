"""The policy of a run from its settings, parents drawn by it, and facts about a run: start, pause, resume, stop, fork.

Pure.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from services.archive.policies import climb_of_run, parent_policy, validate_policies
from services.archive.scoring import costs_of_record, objectives_of
from services.chassis.bus.subjects import fact_of
from services.contracts import archive_pb2, candidate_pb2, events_pb2
from services.domain import pool as pools
from services.domain import run_state as facts
from services.domain.pool import Draw, Entry, PoolPolicy
from services.domain.promotion import Result
from services.domain.run import step
from services.domain.run_state import CONTROLS, GOING_ON, Budget, RunPolicy, RunState, Spent
from services.domain.statistics import LARGEST
from services.llm.port import asks_endpoint
from services.store.port import Change, LogRow, RunRow


def policy_of(settings: events_pb2.RunSettings) -> RunPolicy:
    """The policy of a run's settings. Raises ValueError for an invalid one."""
    return _policy_of(settings.SerializeToString(deterministic=True))


@lru_cache(maxsize=64)  # the same for all events of a run
def _policy_of(body: bytes) -> RunPolicy:
    settings = events_pb2.RunSettings.FromString(body)
    budget, pool = settings.budget, settings.pool
    validate_policies(settings.policies)
    objectives_of(settings)
    climb = climb_of_run(settings)
    own = [program.name for program in settings.programs]
    return RunPolicy(
        seats=settings.seats or 1,
        budget=Budget(**{field.name: value for field, value in budget.ListFields()}),
        baselines=tuple(settings.baselines),
        ahead=asks_endpoint(settings.mind),
        controls=(*CONTROLS, *(name for name in own if name in settings.baselines)),
        seed_programs=tuple(name for name in own if name not in settings.baselines),
        seed=settings.seed,
        candidate_seeds=settings.candidate_seeds or 1,
        baseline_seeds=settings.baseline_seeds or 1,
        promotion=climb.promotion,
        stages=climb.stages,
        discovery=climb.discovery,
        ablations=climb.ablations,
        pool=PoolPolicy(pool.size, pool.parents, pool.references, pool.cold_start, pool.batch)
        if settings.HasField("pool")
        else PoolPolicy(),
    )


def promotable(
    candidate: str, training: candidate_pb2.Training, fitness: float | None, settings: events_pb2.RunSettings
) -> Result | None:
    """A training's result for promotion; None without a loss."""
    if not training.seeds or not training.HasField("loss"):
        return None
    measurements = training.seeds[0].measurements
    return Result(
        candidate=candidate,
        fitness=fitness,
        loss=training.loss,
        benchmark=training.benchmark if training.HasField("benchmark") else None,
        parameters=measurements.parameters or None,
        flops=measurements.flops_per_token if measurements.HasField("flops_per_token") else None,
        costs=costs_of_record(candidate_pb2.Candidate(training=training), settings),
    )


def spent_on(training: candidate_pb2.Training, overhead: candidate_pb2.Overhead) -> Spent:
    """What a training took, and those without a result. Raises ValueError for impossible costs."""
    seconds, gpu_seconds, flops = overhead.seconds, overhead.gpu_seconds, 0.0
    for seed in training.seeds:
        seconds += seed.measurements.seconds
        gpu_seconds += seed.measurements.gpu_seconds
        flops += seed.measurements.flops
    return Spent(training_seconds=seconds, gpu_seconds=gpu_seconds, flops=flops)


def draw_seeds(row: RunRow, tree: Sequence[archive_pb2.TreeNode], candidate: str) -> Draw | None:
    """Parent and references for `candidate`; None while nothing is scored.

    `tree` holds all candidates of the run if its policy draws beyond the pool. Deterministic: the generator is seeded
    by the run's seed and the candidate's id.
    """
    name, members = parent_policy(row.settings), pools.seeds(row.state.pool)
    entries: Sequence[Entry] = members
    if name in pools.BEYOND_THE_POOL:  # all scored candidates except ablations
        entries = [
            Entry(node.id, node.fitness, node.number, node.parent or None)
            for node in tree
            if node.HasField("fitness") and node.kind != candidate_pb2.KIND_ABLATION
        ]
    if not entries:
        return None
    policy, rng = policy_of(row.settings).pool, random.Random(f"{row.settings.seed}:{candidate}")
    if name == "paper":
        return pools.draw(members, policy, rng)
    by_id = {entry.id: entry for entry in entries}
    return pools.draw(members, policy, rng, by_id[pools.strategy(name)(entries, rng)])


FACTS = ("run.paused", "run.resumed", "run.stopped", "run.forked")


class Refused(Exception):  # noqa: N818
    """The event is refused; the message is the reason."""


def start(log: LogRow, run: RunRow | None) -> Change:
    """Start a run; an imported run has also ended."""
    event, settings = log.event, log.event.run_started.settings
    if run is not None:
        raise Refused(f"a run called {event.run} exists already")
    rules = _rules(settings)
    if not settings.seats:  # an imported run
        note = event.run_started.note
        state = RunState(phase="finished", started=moment(event), latest=moment(event), reason=note)
        return Change(log, run=RunRow(event.run, settings, state, log.sequence, log.sequence, origin=note))
    state, decisions = step(RunState(), facts.Started(moment(event)), rules)
    return Change(log, run=RunRow(event.run, settings, state, log.sequence, log.sequence), decisions=decisions)


def steer(log: LogRow, run: RunRow) -> Change:
    """Pause, resume (with another budget, if given), stop or fork."""
    event, time = log.event, moment(log.event)
    match fact_of(event):
        case "run.paused":
            return stepped(Change(log, run=run), facts.Paused(time, event.run_paused.reason))
        case "run.resumed":
            if event.run_resumed.HasField("budget"):
                settings = events_pb2.RunSettings()
                settings.CopyFrom(run.settings)
                settings.budget.CopyFrom(event.run_resumed.budget)
                run = replace(run, settings=settings)
            return stepped(Change(log, run=run), facts.Resumed(time))
        case "run.stopped":
            stopped = facts.Stopped(time, event.run_stopped.reason, event.run_stopped.finished)
            return stepped(Change(log, run=run), stopped)
        case _:
            return _fork(log, run)


def stepped(change: Change, fact: facts.Fact) -> Change:
    """The change after the run's policy has processed the fact."""
    assert change.run is not None  # noqa: S101 - set by all callers
    state, decisions = step(change.run.state, fact, policy_of(change.run.settings))
    return replace(change, run=replace(change.run, state=state), decisions=(*change.decisions, *decisions))


_FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)


def require_finite(message: Message) -> None:
    """Raise Refused unless a message's numbers are finite and can be squared: policies, figures and JSON would fail."""
    if isinstance(message, Struct):  # of many small messages, which are seldom worth a look
        content = message.SerializeToString()
        if b"\x7f" not in content and b"\xff" not in content:  # the last byte of a double that is not finite
            return
    numbers, arrays, parts, lists = _fields_with_numbers(message.DESCRIPTOR)
    for name in numbers:
        if not abs(getattr(message, name)) <= LARGEST:
            raise Refused(f"its {name} is not finite or too large")
    for name in arrays:
        if not all(abs(value) <= LARGEST for value in getattr(message, name)):
            raise Refused(f"its {name} is not finite or too large")
    for name in parts:
        if message.HasField(name):
            require_finite(getattr(message, name))
    for name in lists:
        values = getattr(message, name)
        for part in values.values() if isinstance(values, Mapping) else values:
            require_finite(part)


@cache
def _fields_with_numbers(descriptor: Descriptor) -> tuple[tuple[str, ...], ...]:
    """Names of fields with floating-point numbers: single, repeated, in a message, in repeated messages.

    Going through all fields of a message takes three times as long, half of what applying an event takes.
    """
    numbers, arrays, parts, lists = list[str](), list[str](), list[str](), list[str]()
    for field in descriptor.fields:
        if field.cpp_type in _FLOATS:
            (arrays if field.is_repeated else numbers).append(field.name)
        elif field.message_type is not None and _has_numbers(field.message_type):
            (lists if field.is_repeated else parts).append(field.name)
    return tuple(numbers), tuple(arrays), tuple(parts), tuple(lists)


def _has_numbers(descriptor: Descriptor, above: frozenset[str] = frozenset()) -> bool:
    if descriptor.full_name in above:
        return False
    above |= {descriptor.full_name}
    return any(
        field.cpp_type in _FLOATS or (field.message_type is not None and _has_numbers(field.message_type, above))
        for field in descriptor.fields
    )


def moment(event: events_pb2.Event) -> float:
    """The time of an event, in seconds since the epoch."""
    return event.time.seconds + event.time.nanos / 1e9


def _fork(log: LogRow, run: RunRow) -> Change:
    """End the inherited history. The time between it and the run's own events does not count."""
    fork = log.event.run_forked
    if not fork.settings.seats:
        raise Refused("a fork needs at least one seat")
    before, rules = policy_of(run.settings), _rules(fork.settings)
    other_rules = (before.promotion, before.stages) != (rules.promotion, rules.stages)
    if run.state.phase in GOING_ON:
        state, _ = step(run.state, facts.Paused(run.state.latest), before)
        run = replace(run, state=state)
    run = replace(run, settings=fork.settings, origin=f"forked from {fork.of_run} at {fork.at_sequence}")
    return stepped(Change(log, run=run), facts.Forked(moment(log.event), other_rules))


def _rules(settings: events_pb2.RunSettings) -> RunPolicy:
    try:
        return policy_of(settings)
    except ValueError as error:
        raise Refused(str(error)) from None
