"""From candidate.requested to candidate.proposed without a language model, with neighbours behind real gRPC."""

import pytest

from services.chassis.bus import Bus
from services.chassis.errors import Rejected
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain.structure import fingerprint, similarity
from services.mixers.render import render
from services.researcher.offline_proposer import NAME, RANDOM_NAME, OfflineProposer
from tests.researcher.compositions import composition
from tests.researcher.researcher_fixtures import (
    LEAKS,
    PARENT,
    PARENT_PROGRAM,
    PASSED,
    Archive,
    Checker,
    Neighbours,
    researcher,
    settings_of,
)


async def test_a_seat_becomes_a_proposal(bus: Bus) -> None:
    """With parent, description, structure, neighbours, check and what cognition offered."""
    neighbours = Neighbours(Archive(settings_of()))
    async with researcher(neighbours, OfflineProposer) as seat:
        job = seat.requested(bus)
        (event,) = await seat.handler.handle(job)

    proposal = event.candidate_proposed.proposal
    assert event.WhichOneof("fact") == "candidate_proposed"
    assert (event.cause, event.previous) == (job.event.id, job.cause.sha256)
    assert (proposal.parent, proposal.mind) == ("c000001", NAME)
    assert proposal.structure == fingerprint(proposal.program).digest
    assert {neighbour.of for neighbour in proposal.nearest} == {"motivation", "program"}
    assert proposal.check.passed
    assert proposal.moves
    assert proposal.HasField("description")
    assert [excerpt.entry for excerpt in proposal.cognition] == ["e1"]


async def test_the_same_seat_gets_the_same_proposal(bus: Bus) -> None:
    """Deliveries repeat, and runs are replayed."""
    neighbours = Neighbours(Archive(settings_of()))
    async with researcher(neighbours, OfflineProposer) as seat:
        (event,) = await seat.handle(bus)
    async with researcher(neighbours, OfflineProposer) as seat:
        (again,) = await seat.handle(bus)
        (other,) = await seat.handle(bus, number=3)

    assert again.candidate_proposed == event.candidate_proposed
    assert again.id == event.id
    assert other.candidate_proposed.proposal.structure != event.candidate_proposed.proposal.structure


async def test_a_child_is_derived_from_its_parents_description(bus: Bus) -> None:
    """Numbers survive the way through the record: the description is valid when it is read back."""
    settings = settings_of()
    settings.pool.CopyFrom(events_pb2.PoolSettings(size=9, parents=1, cold_start=9, batch=9))
    archive, children = Archive(settings), list[pb.Candidate]()
    async with researcher(Neighbours(archive), OfflineProposer) as seat:
        for number in range(2, 8):
            (event,) = await seat.handle(bus, number=number)
            child = pb.Candidate(
                id=event.candidate, run="r1", state=pb.STATE_ARCHIVED, proposal=event.candidate_proposed.proposal
            )
            child.verdict.fitness.value = number
            archive.put(child)
            children.append(child)

    digests = {candidate.proposal.structure for candidate in children} | {fingerprint(PARENT_PROGRAM).digest}
    assert len(digests) == 7
    assert [candidate.proposal.parent for candidate in children] == [
        "c000001",
        *(candidate.id for candidate in children[:-1]),
    ]


async def test_a_structural_repeat_is_refused_without_a_check(bus: Bus) -> None:
    """The archive knows the first draft already: another one is drawn, and the record says why."""
    archive = Archive(settings_of())
    neighbours = Neighbours(archive)
    async with researcher(neighbours, OfflineProposer) as seat:
        (event,) = await seat.handle(bus)
        archive.put(pb.Candidate(id="c000009", run="r1", proposal=event.candidate_proposed.proposal))
        neighbours.checker.asked.clear()
        (another,) = await seat.handle(bus)

    assert another.candidate_proposed.proposal.structure != event.candidate_proposed.proposal.structure
    assert "(c000009) up to names and layout" in another.candidate_proposed.proposal.novelty_history[0]
    assert len(neighbours.checker.asked) == 1


async def test_programs_of_unfinished_seats_are_not_drafted_again(bus: Bus) -> None:
    """The model's first choice is the same for every seat until one of them is measured."""
    archive = Archive(settings_of(policies=[("search", "surrogate")]), [PARENT, *measured_compositions(9)])
    structures = list[str]()
    async with researcher(Neighbours(archive), OfflineProposer) as seat:
        for number in range(20, 32):
            (event,) = await seat.handle(bus, number=number)
            proposal = event.candidate_proposed.proposal
            assert "highest expected improvement" in proposal.motivation
            assert not proposal.novelty_history
            structures.append(proposal.structure)
            archive.put(pb.Candidate(id=event.candidate, run="r1", kind=pb.KIND_PROPOSAL, proposal=proposal))

    assert len(set(structures)) == len(structures)


def measured_compositions(count: int) -> list[pb.Candidate]:
    """Archived proposals with descriptions, each better than the one before."""
    records = []
    for number in range(count):
        mixer = composition(number)
        program = render(mixer, f"Net{number}")
        record = pb.Candidate(
            id=f"c{number + 2:06d}", run="r1", stage="tiny", kind=pb.KIND_PROPOSAL, state=pb.STATE_ARCHIVED,
            training=pb.Training(loss=2.0 - 0.01 * number),
            proposal=pb.Proposal(name=f"Net{number}", program=program, structure=fingerprint(program).digest),
        )  # fmt: skip
        record.proposal.description.update(mixer.model_dump(mode="json"))
        record.verdict.fitness.value = number
        records.append(record)
    return records


async def test_a_training_that_stopped_early_counts_with_its_predicted_end(bus: Bus) -> None:
    """Its fitness is the lowest as it was trained the least, but its curve is far below those of all others."""
    records = measured_compositions(12)
    stopped = records[0]
    for number, record in enumerate(records):
        level = 1.0 if record is stopped else 3.0 - 0.01 * number
        seed = record.training.seeds.add(loss=record.training.loss)
        for step in range(10, 30 if record is stopped else 101, 10):
            seed.curve.add(step=step, train_loss=level + 1 / step)
    stopped.training.seeds[0].stopped = "its training loss was above a quantile"
    archive = Archive(settings_of(policies=[("search", "surrogate"), ("stopping", "quantiles")]), [PARENT, *records])

    async with researcher(Neighbours(archive), OfflineProposer) as seat:
        (event,) = await seat.handler.handle(seat.requested(bus, number=20))

    proposal = event.candidate_proposed.proposal
    assert "under a model of 12 measured mixers" in proposal.motivation
    assert proposal.parent == stopped.id


async def test_a_draft_that_fails_the_check_is_followed_by_another(bus: Bus) -> None:
    """The failure stays in the history with its numbers."""
    neighbours = Neighbours(Archive(settings_of()), Checker(LEAKS, PASSED))
    async with researcher(neighbours, OfflineProposer) as seat:
        (event,) = await seat.handle(bus)

    first, second = neighbours.checker.asked
    assert first.program != second.program == event.candidate_proposed.proposal.program
    assert list(event.candidate_proposed.proposal.novelty_history) == [
        "the check fails: causality: position 7 sees position 9, by 0.25"
    ]


async def test_a_seat_without_a_sound_program_ends(bus: Bus) -> None:
    """After ten failed checks, with all of them as evidence."""
    neighbours = Neighbours(Archive(settings_of()), Checker(LEAKS))
    async with researcher(neighbours, OfflineProposer) as seat:
        with pytest.raises(Rejected, match="no new and sound program in 10 tries") as rejected:
            await seat.handle(bus)

    assert rejected.value.stage == "check"
    refused = rejected.value.evidence["refused"]
    assert isinstance(refused, list)
    assert len(refused) == 10


@pytest.mark.parametrize(("name", "exempt"), [("gated_delta_net", False), ("softmax_attention", True)])
async def test_baselines_are_checked_like_any_program(bus: Bus, name: str, exempt: bool) -> None:
    """Only the upper reference may cost what it costs."""
    neighbours = Neighbours(Archive(settings_of()))
    async with researcher(neighbours, OfflineProposer) as seat:
        (event,) = await seat.handle(bus, name)

    assert event.candidate_proposed.proposal.mind == "zoo"
    assert event.candidate_proposed.proposal.motivation
    assert not event.candidate_proposed.proposal.parent
    assert [request.exempt_from_cost for request in neighbours.checker.asked] == [exempt]


async def test_a_baseline_that_fails_ends(bus: Bus) -> None:
    """Nothing is compared with a program that leaks."""
    async with researcher(Neighbours(Archive(settings_of()), Checker(LEAKS)), OfflineProposer) as seat:
        with pytest.raises(Rejected, match="position 7"):
            await seat.handle(bus, "gla")


async def test_without_cognition_no_search_is_made(bus: Bus) -> None:
    """The switch is used to measure the value of the cognition base."""
    neighbours = Neighbours(Archive(settings_of(without_cognition=True)))
    async with researcher(neighbours, OfflineProposer) as seat:
        (event,) = await seat.handle(bus)

    assert neighbours.cognition.queries == []
    assert not event.candidate_proposed.proposal.cognition


async def test_the_best_of_several_is_the_least_alike(bus: Bus) -> None:
    """All are checked; none of those passed over counts as refused."""
    neighbours = Neighbours(Archive(settings_of(best_of=4)))
    async with researcher(neighbours, OfflineProposer) as seat:
        (event,) = await seat.handle(bus)

    proposal = event.candidate_proposed.proposal
    likeness = [_likeness(request.program) for request in neighbours.checker.asked]
    assert len({fingerprint(request.program).digest for request in neighbours.checker.asked}) == 4
    assert _likeness(proposal.program) == min(likeness)
    assert not proposal.novelty_history


async def test_a_run_may_compose_at_random(bus: Bus) -> None:
    """The control that the search has to beat."""
    neighbours = Neighbours(Archive(settings_of([("search", "random")])))
    async with researcher(neighbours, OfflineProposer) as seat:
        (event,) = await seat.handle(bus)

    assert event.candidate_proposed.proposal.mind == RANDOM_NAME


async def test_work_that_is_done_already_is_not_done_again(bus: Bus) -> None:
    """A delivery may come again after its acknowledgement was lost."""
    archive = Archive(settings_of())
    async with researcher(Neighbours(archive), OfflineProposer) as seat:
        again = seat.requested(bus, attempt=2)
        archive.put(pb.Candidate(id=again.event.candidate, run="r1", state=pb.STATE_TRAINING, head="a later event"))

        assert await seat.handler.handle(again) == []


def _likeness(program: str) -> float:
    return similarity(fingerprint(program), fingerprint(PARENT_PROGRAM))
