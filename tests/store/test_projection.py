"""The pure rules: what one event does to the archive, and what the store says in answer."""

import math

import pytest

from services.chassis.bus import Logged
from services.chassis.bus.subjects import subject_of
from services.chassis.errors import Rejected
from services.chassis.events import Cause, body_of, first, follow, rejection
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain.objectives import dominates
from services.store.backends.folding import Effects, fold, unapplied
from services.store.port import Change, OutOfOrder
from services.store.reactions import react
from tests.store.simulation import Simulation, answered, trained


def hear(simulation: Simulation, event: events_pb2.Event) -> tuple[Change, Effects]:
    """What one more event does to a simulation, and the whole effect of it."""
    logged = Logged(len(simulation.log) + 1, subject_of(event), body_of(event))
    effects = fold(unapplied([logged], len(simulation.log)), simulation.loaded, react)
    return effects.changes[0], effects


@pytest.fixture
def simulation() -> Simulation:
    """A run that has just asked for its two baselines."""
    simulation = Simulation()
    simulation.start()
    return simulation


def test_a_start_asks_for_as_many_candidates_as_there_are_seats(simulation: Simulation) -> None:
    """Each request carries its seeds, its baseline and the scale's stage."""
    requests = [cause.event for cause in simulation.open]

    assert [event.candidate_requested.request.baseline for event in requests] == ["delta_net", "gated_delta_net"]
    assert [event.candidate_requested.stage for event in requests] == ["tiny", "tiny"]
    assert [list(event.candidate_requested.request.seeds) for event in requests] == [[1], [1]]
    assert {event.cause for event in requests} == {"r1.started.1"}


def test_a_run_cannot_start_twice_or_with_impossible_settings(simulation: Simulation) -> None:
    """The second start is refused; a run whose pool is smaller than its parents never begins."""
    again = first("r1", "started", "console", attempt=2)
    again.run_started.settings.scale = "tiny"
    impossible = first("r2", "started", "console")
    impossible.run_started.settings.baselines.append("delta_net")
    impossible.run_started.settings.pool.CopyFrom(events_pb2.PoolSettings(size=1, parents=2, batch=1))

    assert "exists already" in hear(simulation, again)[0].log.refused_because
    assert "pool.parents" in hear(simulation, impossible)[0].log.refused_because
    assert "r2" not in simulation.loaded.runs


def test_a_fact_without_its_part_is_refused(simulation: Simulation) -> None:
    """A proposal that proposes nothing."""
    empty = follow(simulation.open[0], "proposed", "researcher", 1, simulation.open[0].event.candidate)
    empty.candidate_proposed.SetInParent()

    assert "carries no proposal" in hear(simulation, empty)[0].log.refused_because


def test_a_result_without_a_claim_is_refused(simulation: Simulation) -> None:
    """The attempt is the fencing token: it has to be taken before it counts."""
    proposed = simulation.step(simulation.open[0])
    unclaimed = trained(Simulation(), proposed)

    assert "is stale" in hear(simulation, unclaimed)[0].log.refused_because


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e160])
def test_a_number_that_is_not_finite_or_has_no_square_is_refused_and_leaves_the_record_as_it_was(
    simulation: Simulation, number: float
) -> None:
    """Accepted, it would make the policy fail on the candidate's end: the store would end on this event forever."""
    proposed = simulation.step(simulation.open[0])
    claim = follow(proposed, "claimed", "engineer", 1, proposed.event.candidate)
    claim.candidate_claimed.worker = "w1"
    simulation.say(claim)
    bodies = [follow(proposed, "trained", "engineer", 1, proposed.event.candidate, suffix=f"{n}") for n in range(4)]
    bodies[0].candidate_trained.training.loss = number
    bodies[1].candidate_trained.training.seeds.add(loss=number)
    bodies[2].candidate_trained.training.seeds.add().measurements.gpu_seconds = number
    bodies[3].candidate_trained.training.seeds.add().curve.add(train_loss=number)  # no policy uses it, but figures do
    call = answered(proposed)
    call.mind_answered.call.price = number
    outcomes = [hear(simulation, event)[0].log for event in (*bodies, call)]
    judged = simulation.way(proposed, "candidate_judged")
    scored = follow(Cause.of(simulation.log[-2].body), "judged", "judge", 1, judged.event.candidate, suffix="again")
    scored.candidate_judged.verdict.fitness.value = number
    rescored = follow(judged, "rescored", "console", 1, judged.event.candidate)
    rescored.candidate_rescored.fitness.value = number
    before = simulation.loaded.rows["r1", "c000001"].record.SerializeToString(deterministic=True)
    outcomes += [hear(simulation, event)[0].log for event in (scored, rescored)]

    assert [log.accepted for log in outcomes] == [False] * 7
    assert simulation.loaded.rows["r1", "c000001"].record.SerializeToString(deterministic=True) == before
    assert math.isfinite(simulation.loaded.runs["r1"].state.spent.money)


@pytest.mark.parametrize(
    ("field", "number", "reason"),
    [
        ("prompt_tokens", 2**64 - 1, "a run cannot have spent"),
        ("price", -1.0, "a run cannot have spent"),
        ("price", 1e308, "its price is not finite or too large"),
    ],
)
def test_impossible_costs_are_refused(simulation: Simulation, field: str, number: float, reason: str) -> None:
    """Else their sum cannot be told: the status of the run would fail for ever."""
    call = answered(simulation.open[0])
    setattr(call.mind_answered.call, field, number)
    logs = [hear(simulation, call)[0].log]
    call.id += "2"
    logs.append(hear(simulation, call)[0].log)

    assert not logs[-1].accepted
    assert reason in logs[-1].refused_because


def test_trainings_without_a_result_count_as_spent(simulation: Simulation) -> None:
    """A budget of GPU-hours would otherwise pay for any number of candidates that fail."""
    change, _ = hear(simulation, failed_training(simulation.open[0], seconds=90.0))
    impossible, _ = hear(simulation, failed_training(simulation.open[1], seconds=-1.0))

    assert change.run is not None
    assert change.run.state.spent.training_seconds == change.run.state.spent.gpu_seconds == 90.0
    assert "a run cannot have spent" in impossible.log.refused_because


def failed_training(requested: Cause, seconds: float) -> events_pb2.Event:
    """The rejection of a candidate that trained for so long on a GPU."""
    rejected = Rejected("train", "it diverges")
    rejected.overhead = pb.Overhead(seconds=seconds, gpu_seconds=seconds)
    return rejection(requested, rejected, "engineer", 1)


def test_a_time_that_is_none_is_refused(simulation: Simulation) -> None:
    """No timestamp of a reply can express it."""
    for seconds in (-1, 253_402_300_800, 2**63 - 1):
        paused = first("r1", "paused", "console")
        paused.time.seconds = seconds
        paused.run_paused.SetInParent()

        assert "is not a time" in hear(simulation, paused)[0].log.refused_because


def test_a_body_under_an_incomplete_subject_is_refused(simulation: Simulation) -> None:
    """A replay reads a run's own subjects: it would miss the event. The store could not answer a run of such a name."""
    started = first("a b", "started", "console")
    started.run_started.CopyFrom(Cause.of(simulation.log[0].body).event.run_started)
    for subject, event in (("asi.v1.r1", answered(simulation.open[0])), ("asi.v1.r1", started), ("asi", started)):
        incoming = unapplied([Logged(len(simulation.log) + 1, subject, body_of(event))], len(simulation.log))

        (log,) = fold(incoming, simulation.loaded, react).logs
        assert not log.accepted
        assert log.run == ""


def test_facts_about_unknown_candidates_are_refused(simulation: Simulation) -> None:
    """Of an unknown run and of an unknown candidate."""
    stranger = Simulation("r9")
    stranger.start()
    unknown = follow(simulation.open[0], "proposed", "researcher", 1, "c999999")
    unknown.candidate_proposed.SetInParent()

    assert hear(simulation, stranger.open[0].event)[0].log.refused_because == "no run is called r9"
    assert hear(simulation, unknown)[0].log.refused_because == "the run has no candidate c999999"


def test_model_calls_are_booked_even_after_the_candidate_has_ended(simulation: Simulation) -> None:
    """Answers of minds do not move the chain, so they may come late."""
    requested = simulation.open[0]
    simulation.way(requested)

    change, _ = hear(simulation, answered(requested))

    assert change.log.accepted
    assert change.run is not None
    assert (change.run.state.spent.tokens, change.run.state.spent.money) == (120, 0.25)


def test_an_end_frees_a_seat_and_is_followed_by_the_next_request(simulation: Simulation) -> None:
    """Both baselines first: proposals are drawn from what they measured."""
    first, later = simulation.open
    simulation.way(first)
    asked_before = len(simulation.loaded.rows)
    simulation.way(later)

    assert asked_before == 2
    assert [row.record.kind for row in simulation.loaded.rows.values()] == [1, 1, 2, 2]


def test_a_pause_withholds_seats_and_a_resume_releases_them(simulation: Simulation) -> None:
    """With another budget, where the resume carries one."""
    earlier, later = simulation.open
    paused = first("r1", "paused", "console")
    paused.run_paused.reason = "lunch"
    simulation.say(paused)
    simulation.way(earlier)
    simulation.way(later)
    count = len(simulation.loaded.rows)
    resumed = first("r1", "resumed", "console")
    resumed.run_resumed.budget.candidates = 1
    simulation.say(resumed)

    assert count == 2
    assert len(simulation.loaded.rows) == 3
    assert simulation.loaded.runs["r1"].settings.budget.candidates == 1


def test_a_rejected_root_ends_the_run(simulation: Simulation) -> None:
    """There is nothing to compare with: the run stops unfinished once nothing is in flight."""
    root = simulation.open[0]
    dead = follow(root, "dead", "store", 1, root.event.candidate)
    dead.dead.CopyFrom(events_pb2.DeadLetter(consumer="engineer-tiny", reason="out of memory", sequence=5))
    simulation.say(dead)
    record = simulation.loaded.rows["r1", "c000001"].record
    simulation.finish()
    stopped = Cause.of(simulation.log[-1].body).event

    assert (record.rejection.stage, record.rejection.reason) == ("engineer", "out of memory")
    assert "was rejected" in stopped.run_stopped.reason
    assert not stopped.run_stopped.finished


def test_a_published_record_enters_as_it_is(simulation: Simulation) -> None:
    """Imported candidates take no seat and are no entry of the pool."""
    record = pb.Candidate(id="i1", run="r1", kind=pb.KIND_IMPORTED, state=pb.STATE_ARCHIVED)
    record.verdict.fitness.value = 0.9
    event = follow(simulation.open[0], "imported", "console", 1, record.id)
    event.candidate_imported.CopyFrom(events_pb2.CandidateImported(source="published", record=record))

    change, effects = hear(simulation, event)

    assert change.candidate is not None
    assert change.candidate.ended == len(simulation.log) + 1
    assert change.candidate.record.verdict == record.verdict
    assert change.candidate.record.head == event.id
    assert effects.reactions == {}


def test_the_same_history_gives_the_same_answers(simulation: Simulation) -> None:
    """Ids do not depend on when something is decided: a decision that is made again is the same event."""
    simulation.finish()
    effects = fold(unapplied(simulation.log, 0), Simulation().loaded, react)
    repeated = fold(unapplied(simulation.log[:40], 0), Simulation().loaded, react)

    assert effects.reactions == {}
    assert [
        identifier
        for identifier in repeated.reactions
        if identifier not in {Cause.of(log.body).event.id for log in simulation.log}
    ] == []


def test_a_batch_that_does_not_follow_is_refused(simulation: Simulation) -> None:
    """The archive never guesses what it has missed."""
    with pytest.raises(OutOfOrder, match="event 2 arrived, but 1 is missing"):
        unapplied(simulation.log[1:], 0)
    assert unapplied(simulation.log, len(simulation.log)) == []


def test_a_run_with_objectives_keeps_the_front_in_its_pool() -> None:
    """The costs come from the record; the pool is ordered by them and not by fitness, and a replay finds the same."""
    simulation = Simulation()
    simulation.start(policies=events_pb2.Policies(objectives="loss,parameters"))
    simulation.finish()

    pool = simulation.loaded.runs["r1"].state.pool
    scored = {row.record.id: row.record for row in simulation.loaded.rows.values() if row.fitness is not None}
    assert pool.members
    for member in (*pool.members, *pool.pending):
        training = scored[member.id].training
        assert member.costs == (training.loss, training.seeds[0].measurements.parameters)
    first = pool.members[0].costs
    assert first is not None
    assert not any(member.costs and dominates(member.costs, first) for member in pool.members)
    again = Simulation()
    for message in simulation.log:
        again.hear(message)
    assert again.loaded.runs["r1"].state.pool == pool


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (events_pb2.RunSettings(policies=events_pb2.Policies(objectives="loss,beauty")), "'beauty' is unknown"),
        (
            events_pb2.RunSettings(policies=events_pb2.Policies(objectives="loss,speed"), parent_policy="uct"),
            "ranks by fitness alone",
        ),
    ],
)
def test_impossible_objectives_refuse_the_start(settings: events_pb2.RunSettings, why: str) -> None:
    """Whoever writes to the log directly is told as well."""
    simulation, started = Simulation(), first("r1", "started", "console")
    settings.baselines.append("delta_net")
    started.run_started.settings.CopyFrom(settings)

    assert why in hear(simulation, started)[0].log.refused_because
