"""From candidate.requested to candidate.proposed with a language model behind a scripted endpoint."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import JsonValue

from services.archive.artifacts import FsspecArtifacts
from services.chassis.bus import Bus
from services.chassis.errors import Rejected
from services.chassis.rpc import channel
from services.chassis.settings import ServiceSettings
from services.contracts import checker_pb2_grpc
from services.domain.zoo import baseline
from services.llm.answers import Unreadable, read
from services.llm.budget import Limits, MemoryLedger
from services.llm.port import BudgetExhausted, Mind
from services.llm.recorded import CallRecord, RecordedMind, to_message
from services.researcher.model_proposer import ModelProposer, ProposalAnswer
from tests.llm.scripted_minds import MemoryJournal
from tests.researcher.researcher_fixtures import (
    LEAKS,
    PARENT_PROGRAM,
    PASSED,
    Archive,
    Checker,
    Neighbours,
    Seats,
    researcher,
    settings_of,
)
from tests.researcher.scripted_proposals import (
    GATED,
    IS_NEW,
    IS_REPEAT,
    MOTIVATION,
    OTHER,
    judged,
    proposal,
    proposes,
    seats,
    thinking,
)


async def test_a_new_and_sound_answer_is_proposed(bus: Bus) -> None:
    """Its tags, the growth of its memory, the origins of its ideas and the version of the prompt are kept."""
    async with thinking(proposes(), judged(IS_NEW)) as (mind, endpoint), seats(mind) as seat:
        (event,) = await seat.handle(bus)

    proposal = event.candidate_proposed.proposal
    assert (proposal.name, proposal.program, proposal.parent) == ("ForgetfulDeltaNet", GATED, "c000001")
    assert list(proposal.components) == ["forget-gate", "delta-rule", "warp-drive"]
    assert proposal.memory == "fixed-state"
    assert [(idea.origin, idea.source) for idea in proposal.ideas] == [("cognition", "e1")]
    assert (proposal.mind, proposal.prompt_version) == ("openai:scripted-model", "propose-10")
    instructions, conditions = endpoint.received[0].json["messages"]
    assert (instructions["role"], conditions["role"]) == ("system", "user")
    assert "an auxiliary loss has no effect" in instructions["content"]


async def test_a_repeat_is_reported_and_an_orthogonal_idea_requested(bus: Bus) -> None:
    """The second draft knows what the first one repeats; no check was spent on the first."""
    neighbours = Neighbours(Archive(settings_of()))
    steps = (proposes(), judged(IS_REPEAT), proposes(name="OtherNet", motivation=OTHER), judged(IS_NEW))
    async with thinking(*steps) as (mind, endpoint), seats(mind, neighbours) as seat:
        (event,) = await seat.handle(bus)

    assert event.candidate_proposed.proposal.name == "OtherNet"
    assert list(event.candidate_proposed.proposal.novelty_history) == [
        "it repeats c000001: it corrects what is stored, too"
    ]
    assert "it corrects what is stored, too" in endpoint.received[2].body
    assert "orthogonal to what it repeats" in endpoint.received[2].body
    assert len(neighbours.checker.asked) == 1


async def test_two_seats_at_once_do_not_draft_the_same_program(bus: Bus) -> None:
    """The archive knows nothing of the first one's draft when the second is answered to the letter alike."""
    changed = GATED + "\nEXTRA = 1\n"
    steps = (proposes(), proposes(), proposes(program=changed), judged(IS_NEW, 3))
    async with thinking(*steps) as (mind, _), seats(mind) as seat:
        (first,) = await seat.handle(bus, number=2)
        proposal_of_first = first.candidate_proposed.proposal
        (second,) = await seat.handle(bus, number=3)

    assert list(second.candidate_proposed.proposal.novelty_history) == [
        "the program repeats what the seat of c000002 has just drafted"
    ]
    assert proposal_of_first.structure != second.candidate_proposed.proposal.structure


async def test_a_draft_that_was_not_proposed_is_available_to_other_seats(bus: Bus) -> None:
    """A check may fail for reasons that pass; nobody else would ever train that program."""
    neighbours = Neighbours(Archive(settings_of()), Checker(LEAKS, PASSED))
    other = proposes(name="OtherNet", program=baseline("gla").program)
    async with thinking(proposes(), other, proposes(), judged(IS_NEW, 3)) as (mind, _), seats(mind, neighbours) as seat:
        (first,) = await seat.handle(bus, number=2)
        (second,) = await seat.handle(bus, number=3)

    assert first.candidate_proposed.proposal.name == "OtherNet"
    assert not second.candidate_proposed.proposal.novelty_history
    assert second.candidate_proposed.proposal.structure != first.candidate_proposed.proposal.structure


async def test_the_parents_own_program_is_refused_without_asking(bus: Bus) -> None:
    """An exact structural repeat needs no judge."""
    renamed = PARENT_PROGRAM + "\n# another comment\n"
    async with thinking(proposes(program=renamed), proposes(), judged(IS_NEW)) as (mind, endpoint), seats(mind) as seat:
        (event,) = await seat.handle(bus)

    assert "repeats DeltaNet (c000001) up to names and layout" in event.candidate_proposed.proposal.novelty_history[0]
    assert len(endpoint.received) == 3


async def test_a_failed_check_comes_back_with_its_evidence(bus: Bus) -> None:
    """Probe, numbers and the program itself, so that it can be mended."""
    neighbours = Neighbours(Archive(settings_of()), Checker(LEAKS, PASSED))
    mended = baseline("gla").program
    steps = (proposes(), judged(IS_NEW, 2), proposes(name="MendedNet", program=mended))
    async with thinking(*steps) as (mind, endpoint), seats(mind, neighbours) as seat:
        (event,) = await seat.handle(bus)

    assert event.candidate_proposed.proposal.program == mended
    again = endpoint.received[2].json["messages"][1]["content"]
    assert "causality: position 7 sees position 9, by 0.25" in again
    assert GATED in again
    assert f"Motivation: {MOTIVATION}\nComponents: forget-gate, delta-rule, warp-drive" in again


async def test_edits_of_the_parent_are_applied(bus: Bus) -> None:
    """A search text that occurs once is replaced; one that does not is given back."""
    wrong: JsonValue = [{"search": "no such text", "replace": "x"}]
    fits: JsonValue = [{"search": PARENT_PROGRAM.splitlines()[-1], "replace": "        return None\n"}]
    steps = (proposes(program="", edits=wrong), proposes(program="", edits=fits), judged(IS_NEW))
    async with thinking(*steps) as (mind, endpoint), seats(mind) as seat:
        (event,) = await seat.handle(bus)

    assert event.candidate_proposed.proposal.program.rstrip().endswith("return None")
    again = endpoint.received[1].json["messages"][1]["content"]
    assert "edit 1: its search text occurs 0 times" in again
    assert '"search": "no such text"' in again  # calls have no memory: without the edits it could not mend them
    assert MOTIVATION in again


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"program": None}, "answer: there is neither a program nor an edit: give"),
        ({"edits": [{"search": "a", "replace": "b"}]}, "answer: there are both a program and edits: give"),
    ],
)
def test_an_answer_without_exactly_one_form_of_the_program_is_refused(
    changes: dict[str, JsonValue], reason: str
) -> None:
    """A model that wrote a diff learns that it was not read."""
    with pytest.raises(Unreadable, match=reason):
        read(json.dumps(proposal(**changes)), ProposalAnswer)


async def test_ten_repeats_end_the_seat(bus: Bus) -> None:
    """As a rejection with its history."""
    steps = [proposes().model_copy(update={"times": 10}), judged(IS_REPEAT, 10)]
    async with thinking(*steps) as (mind, endpoint), seats(mind) as seat:
        with pytest.raises(Rejected, match="no new and sound program in 10 tries") as rejected:
            await seat.handle(bus)

    assert rejected.value.stage == "propose"
    assert len(endpoint.received) == 20


async def test_a_spent_budget_ends_the_seat(bus: Bus) -> None:
    """Nothing is sent that the run's tokens do not cover."""
    async with thinking(proposes(), ledger=MemoryLedger(Limits(tokens=100))) as (mind, endpoint), seats(mind) as seat:
        with pytest.raises(BudgetExhausted):
            await seat.handle(bus)

    assert endpoint.received == []


async def test_a_recorded_seat_gives_the_same_proposal(bus: Bus, tmp_path: Path) -> None:
    """From its calls alone, without any endpoint."""
    journal, artifacts = MemoryJournal(), FsspecArtifacts(tmp_path.as_uri())
    neighbours = Neighbours(Archive(settings_of()))
    steps = (proposes(), judged(IS_REPEAT), proposes(name="OtherNet", motivation=OTHER), judged(IS_NEW))
    async with thinking(*steps, journal=journal) as (mind, _), seats(mind, neighbours) as seat:
        (event,) = await seat.handle(bus)
    record = CallRecord(artifacts)
    for call in await asyncio.gather(*(to_message(recorded, artifacts) for _, _, recorded in journal.calls)):
        record.add("c000002", call)
    replay = RecordedMind(record, "r1")
    async with seats(replay, neighbours) as seat:
        (again,) = await seat.handle(bus)

    again.candidate_proposed.proposal.mind = event.candidate_proposed.proposal.mind
    assert again.candidate_proposed == event.candidate_proposed


@asynccontextmanager
async def trying(mind: Mind, neighbours: Neighbours) -> AsyncIterator[Seats]:
    """The handler whose proposals may be tried before they are made."""
    async with neighbours.served() as address, channel(address, ServiceSettings()) as connection:
        stub = checker_pb2_grpc.CheckerStub(connection)
        async with researcher(neighbours, lambda: ModelProposer(mind, stub)) as service:
            yield service


async def test_a_model_may_try_a_program_before_it_commits(bus: Bus) -> None:
    """Each result comes back with the program, and after the last one the form offers no more of them."""
    neighbours = Neighbours(Archive(settings_of([("experiments", "2")])))
    steps = (
        proposes(experiment="compare", name="FirstThought"),
        proposes(experiment="check", name="SecondThought"),
        proposes(experiment="train"),
        judged(IS_NEW),
    )
    async with thinking(*steps) as (mind, endpoint), trying(mind, neighbours) as seat:
        (event,) = await seat.handle(bus)

    first, second, third = (request.json["messages"][1]["content"] for request in endpoint.received[:3])
    assert event.candidate_proposed.proposal.name == "ForgetfulDeltaNet"
    assert [(trial.steps, trial.program == PARENT_PROGRAM) for trial in neighbours.checker.tried] == [
        (30, False),
        (30, True),
    ]
    assert "up to 2 made" in first
    assert "experiment 1 (compare) with FirstThought\n\nit: 3.000 at step 30; the parent" in second
    assert f"Motivation: {MOTIVATION}" in second
    assert "up to 1 made" in second
    assert "experiment 2 (check) with SecondThought\n\nall probes pass" in third
    assert "up to" not in third.split("# Your quick experiment 2")[1]


async def test_without_the_policy_nothing_is_offered(bus: Bus) -> None:
    """The prompt and the form stay as they were: recorded answers still fit."""
    neighbours = Neighbours(Archive(settings_of()))
    async with thinking(proposes(), judged(IS_NEW)) as (mind, endpoint), trying(mind, neighbours) as seat:
        await seat.handle(bus)

    assert "Quick experiments" not in endpoint.received[0].json["messages"][1]["content"]
    assert "'experiment'" not in str(endpoint.received[0].json["response_format"])
    assert neighbours.checker.tried == []
