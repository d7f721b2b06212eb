"""The port's promises about applying events, kept by every backend."""

import pytest

from services.chassis.bus import Logged
from services.chassis.errors import NotFound
from services.chassis.events import Cause, body_of, follow
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.store.backends import open_archive
from services.store.port import Archive, OutOfOrder
from services.store.reactions import react
from tests.store.simulation import Simulation, answered, trained


async def test_a_whole_run_ends_with_every_candidate_archived(archive: Archive, finished: Simulation) -> None:
    """Six proposals and two baselines, one of the proposals rejected, then the end of the budget."""

    changes = await archive.apply(finished.log)

    run = await archive.run("r1")
    assert all(change.log.accepted for change in changes)
    assert await archive.applied() == len(finished.log)
    assert run.state == finished.loaded.runs["r1"].state
    assert run.state.phase == "finished"
    assert await archive.state_counts("r1") == {pb.STATE_ARCHIVED: 7, pb.STATE_REJECTED: 1}
    for (_, name), row in finished.loaded.rows.items():
        assert await archive.candidate("r1", name) == row


async def test_one_by_one_and_in_one_batch_are_the_same(archive: Archive, finished: Simulation) -> None:
    """Within a batch later messages see what earlier ones did."""
    other = Simulation("r2")
    other.start()

    for message in finished.log:
        await archive.apply([message])
    for_one_by_one = await archive.digest("r1")
    moved = [Logged(len(finished.log) + logged.sequence, logged.subject, logged.body) for logged in other.log]
    await archive.apply(moved)

    assert for_one_by_one[1] == len(finished.log)
    assert await archive.digest("r1") == for_one_by_one
    assert [row.run for row in await archive.runs()] == ["r2", "r1"]


async def test_applied_events_are_skipped_and_gaps_refused(archive: Archive) -> None:
    """Redelivery is normal; a missing event must stop the batch before it does anything."""
    simulation = Simulation()
    simulation.start()
    await archive.apply(simulation.log[:2])

    assert await archive.apply(simulation.log[:2]) == []
    assert await archive.apply([]) == []
    with pytest.raises(OutOfOrder, match="event 4 arrived, but 3 is missing"):
        await archive.apply([Logged(4, "", simulation.log[2].body)])
    assert await archive.applied() == 2
    assert [change.log.sequence for change in await archive.apply(simulation.log)] == [3]


async def test_a_gap_inside_a_batch_undoes_the_whole_batch(archive: Archive) -> None:
    """All or nothing."""
    simulation = Simulation()
    simulation.start()

    with pytest.raises(OutOfOrder):
        await archive.apply([simulation.log[0], simulation.log[2]])

    assert await archive.applied() == 0
    assert await archive.runs() == []


async def test_an_event_that_comes_twice_counts_once(archive: Archive) -> None:
    """The second is remembered with the sequence of the first."""
    simulation = Simulation()
    cause = simulation.start()
    simulation.say(answered(simulation.open[0]))
    spent = simulation.loaded.runs["r1"].state.spent
    simulation.repeat(len(simulation.log))

    changes = await archive.apply(simulation.log)

    assert changes[-1].log.refused_because == f"a duplicate of sequence {len(simulation.log) - 1}"
    assert (await archive.run("r1")).state.spent == spent
    assert len((await archive.candidate("r1", "c000001")).record.calls) == 1
    assert cause.event.run == "r1"


async def test_a_message_that_is_not_an_event_is_recorded_and_skipped(archive: Archive) -> None:
    """Garbage and facts of a later version must not stop the archive."""
    simulation = Simulation()
    simulation.start()
    simulation.garbage()
    simulation.garbage(body_of(events_pb2.Event(id="r1.c000001.dreamt.1", run="r1", candidate="c000001")))

    changes = await archive.apply(simulation.log)

    assert [change.log.accepted for change in changes[-2:]] == [False, False]
    assert "not a readable event" in changes[-2].log.refused_because
    assert "no fact that this version knows" in changes[-1].log.refused_because
    assert await archive.applied() == len(simulation.log)


async def test_a_stale_attempt_is_refused(archive: Archive) -> None:
    """A worker that was given up still sends its result: the newer claim wins."""
    simulation = Simulation()
    simulation.start()
    proposed = simulation.step(simulation.open[0])
    late = trained(simulation, proposed)  # claims as attempt 1
    claim = follow(proposed, "claimed", "engineer", 2, proposed.event.candidate)
    claim.candidate_claimed.worker = "w2"
    simulation.say(claim)
    simulation.say(late)

    changes = await archive.apply(simulation.log)

    row = await archive.candidate("r1", proposed.event.candidate)
    assert "attempt 1 is stale" in changes[-1].log.refused_because
    assert [claim.attempt for claim in row.record.claims] == [1, 2]
    assert row.record.state == pb.STATE_TRAINING
    assert not row.record.HasField("training")


async def test_a_wrong_cause_and_a_wrong_hash_are_refused(archive: Archive) -> None:
    """The chain goes on from its head only, and only from the head as it was logged."""
    simulation = Simulation()
    simulation.start()
    requested = simulation.open[0]
    proposed = simulation.step(requested)
    simulation.say(_second_proposal(requested, "2"))
    simulation.say(_second_proposal(Cause(proposed.event, bytes(32)), "3"))

    changes = await archive.apply(simulation.log)

    assert "the chain's head is" in changes[-2].log.refused_because
    assert "its hash of" in changes[-1].log.refused_because
    assert (await archive.candidate("r1", proposed.event.candidate)).record.proposal.name == "net_1"


async def test_the_outbox_survives_a_restart(archive: Archive, url: str) -> None:
    """What was decided with an event must be published, however often the store restarts."""
    simulation = Simulation()
    simulation.start()
    await archive.apply(simulation.log[:1], react)
    before = await archive.outbox()
    await archive.close()

    again = open_archive(url)
    await again.open()
    waiting = await again.outbox()
    await again.sent([waiting[0].number])
    left = await again.outbox()
    await again.close()

    assert [outgoing.event.id for outgoing in before] == ["r1.c000001.requested.1", "r1.c000002.requested.1"]
    assert [outgoing.event for outgoing in waiting] == [outgoing.event for outgoing in before]
    assert [outgoing.event.id for outgoing in left] == ["r1.c000002.requested.1"]


async def test_an_event_found_in_the_log_leaves_the_outbox(archive: Archive, finished: Simulation) -> None:
    """So an archive that is rebuilt with reactions says nothing twice, and says what a crash had left unsaid."""

    await archive.apply(finished.log[:30], react)
    await archive.apply(finished.log[30:-1], react)

    assert [outgoing.event.id for outgoing in await archive.outbox()] == [Cause.of(finished.log[-1].body).event.id]
    await archive.apply(finished.log, react)
    assert await archive.outbox() == []


async def test_a_replay_makes_no_decisions(archive: Archive) -> None:
    """Its answers are in the log already."""
    simulation = Simulation()
    simulation.start()

    await archive.apply(simulation.log[:1])

    assert await archive.outbox() == []


async def test_a_reopened_archive_continues_at_its_sequence(archive: Archive, url: str, finished: Simulation) -> None:
    """Opening twice changes nothing."""
    await archive.apply(finished.log[:40])
    await archive.close()
    again = open_archive(url)
    await again.open()

    changes = await again.apply(finished.log)
    digest = await again.digest("r1")
    await again.close()

    assert changes[0].log.sequence == 41
    assert digest[1] == len(finished.log)


async def test_reservations_survive_a_restart(archive: Archive, url: str) -> None:
    """A store that crashes must not forget what calls in flight may still cost."""
    first = await archive.reserve("r1", 100, None)
    second = await archive.reserve("r1", 200, 5)
    await archive.unreserve(first)
    await archive.unreserve(first)
    await archive.close()
    again = open_archive(url)
    await again.open()
    third = await again.reserve("r2", 1, 0)
    reservations = await again.reservations()
    await again.close()

    assert [
        (reservation.number, reservation.run, reservation.tokens, reservation.nanodollars)
        for reservation in reservations
    ] == [
        (second, "r1", 200, 5),
        (third, "r2", 1, 0),
    ]
    assert len({first, second, third}) == 3


async def test_a_dead_letter_ends_its_candidate(archive: Archive) -> None:
    """Nobody will answer any more: the store rejects the candidate, which frees its seat."""
    simulation = Simulation()
    simulation.start()
    dead = follow(simulation.open[0], "dead", "store", 1, simulation.open[0].event.candidate)
    dead.dead.CopyFrom(events_pb2.DeadLetter(consumer="researcher", reason="it raised", sequence=2))
    simulation.say(dead)

    await archive.apply(simulation.log)

    run = await archive.run("r1")
    assert run.dead_letters == 1
    assert (await archive.candidate("r1", "c000001")).record.rejection.stage == "researcher"
    assert run.state.phase == "draining"


async def test_an_archive_without_runs_says_so(archive: Archive) -> None:
    """Absence is an error, not an empty answer."""
    assert await archive.applied() == 0
    assert await archive.runs() == []
    assert await archive.healthy()
    with pytest.raises(NotFound, match="there is no run yet"):
        await archive.run("")
    with pytest.raises(NotFound, match="no run is called r9"):
        await archive.run("r9")


async def test_every_event_of_a_run_can_be_read_in_order(archive: Archive, finished: Simulation) -> None:
    """Also the refused ones, with the reason; nothing of other runs."""
    finished.repeat(2)
    await archive.apply(finished.log)

    rows = [row async for row in archive.log("r1")]

    assert [row.sequence for row in rows] == list(range(1, len(finished.log) + 1))
    assert [row.accepted for row in rows] == [True] * (len(rows) - 1) + [False]
    assert all(not row.event.candidate_trained.HasField("training") for row in rows)


async def test_the_moves_of_proposals_and_what_they_gained(archive: Archive, finished: Simulation) -> None:
    """Gain is the fitness minus the parent's, absent unless both are known; the newest proposals, oldest first."""
    await archive.apply(finished.log)

    moves = await archive.moves("r1", 100)

    records = [(await archive.candidate("r1", f"c{number:06d}")).record for number in range(3, 9)]
    parents = [await archive.record("r1", record.proposal.parent) for record in records]
    assert [list(row.moves) for row in moves] == [list(record.proposal.moves) for record in records]
    assert [row.structure for row in moves] == [record.proposal.structure for record in records]
    assert [row.rejected for row in moves] == [record.request.number == 7 for record in records]
    for move, record, parent in zip(moves, records, parents, strict=True):
        known = record.verdict.HasField("fitness") and parent.verdict.HasField("fitness")
        assert move.HasField("gain") == known
        if known:
            assert move.gain == pytest.approx(record.verdict.fitness.value - parent.verdict.fitness.value)
    assert await archive.moves("r1", 2) == moves[-2:]


async def test_rejections_come_newest_first(archive: Archive) -> None:
    """What failed lately is shown to whoever proposes next."""
    simulation = Simulation()
    simulation.start(budget=events_pb2.Budget(candidates=14))
    simulation.finish()
    await archive.apply(simulation.log)

    assert [record.id for record in await archive.recent_rejections("r1", 10)] == ["c000014", "c000007"]
    assert [record.id for record in await archive.recent_rejections("r1", 1)] == ["c000014"]


def _second_proposal(cause: Cause, attempt: str) -> events_pb2.Event:
    event = follow(cause, "proposed", "played", int(attempt), cause.event.candidate)
    event.candidate_proposed.proposal.name = "usurper"
    event.candidate_proposed.stage = "tiny"
    return event
