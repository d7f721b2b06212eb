"""What the questions to a language model hold: parent, literature, the best, repeats and references."""

import pytest
from pydantic import JsonValue

from services.chassis.bus import Bus
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from tests.researcher.researcher_fixtures import (
    PARENT,
    PARENT_PROGRAM,
    Archive,
    Neighbours,
    settings_of,
)
from tests.researcher.scripted_proposals import GATED, IS_NEW, IS_REPEAT, OTHER, judged, proposes, seats, thinking


async def test_the_prompt_holds_the_parent_and_what_is_known(bus: Bus) -> None:
    """The whole program, the scores, and the literature that its analysis led to."""
    async with thinking(proposes(), judged(IS_NEW)) as (mind, endpoint), seats(mind) as seat:
        await seat.handle(bus)

    prompt = endpoint.received[0].json["messages"][1]["content"]
    assert PARENT_PROGRAM in prompt
    assert "Held-out loss 1.5000" in prompt
    assert "A forget gate may help on long context." in prompt
    assert "[e1] Gating what is kept" in prompt


async def test_the_prompt_holds_the_scale_the_best_and_everything_tried(bus: Bus) -> None:
    """What the model needs to know and cannot guess; the best candidate comes with its program."""
    best = pb.Candidate(
        id="c000009",
        run="r1",
        stage="tiny",
        state=pb.STATE_ARCHIVED,
        proposal=pb.Proposal(name="SharpNet", program="SHARP = True"),
    )
    best.training.loss = 1.25
    best.analysis.synthesis = "Sharper look-ups pay."
    settings = settings_of()
    settings.mind = "openai"
    neighbours = Neighbours(Archive(settings, known=[PARENT, best]))
    async with thinking(proposes(), judged(IS_NEW)) as (mind, endpoint), seats(mind, neighbours) as seat:
        await seat.handle(bus)

    prompt = endpoint.received[0].json["messages"][1]["content"]
    assert "hidden_size 128, num_heads 4, so 32 dimensions per head" in prompt
    assert "100 steps" in prompt
    assert "SHARP = True" in prompt
    assert "- SharpNet (c000009); 1.2500; Sharper look-ups pay." in prompt


async def test_a_rejected_loss_is_not_an_example(bus: Bus) -> None:
    """A leaking candidate would be the best: it is listed with its reason, without its program."""
    leak = pb.Candidate(id="c000009", run="r1", stage="tiny", state=pb.STATE_REJECTED)
    leak.proposal.name, leak.proposal.program, leak.training.loss = "SeerNet", "SEES = 'ahead'", 0.2
    leak.rejection.stage, leak.rejection.reason = "judge", "implausibly low"
    settings = settings_of()
    settings.mind = "openai"
    neighbours = Neighbours(Archive(settings, known=[PARENT, leak]))
    async with thinking(proposes(), judged(IS_NEW)) as (mind, endpoint), seats(mind, neighbours) as seat:
        await seat.handle(bus)

    prompt = endpoint.received[0].json["messages"][1]["content"]
    assert "The parent is the best so far." in prompt
    assert "- SeerNet (c000009); 0.2000; rejected at judge: implausibly low" in prompt
    assert "SEES" not in prompt


async def test_novelty_is_asked_of_the_program_most_alike_too(bus: Bus) -> None:
    """Its motivation may be far away: here it has none that could be compared."""
    twin = pb.Candidate(id="c000009", run="r1", stage="tiny", state=pb.STATE_ARCHIVED)
    twin.proposal.name, twin.proposal.program = "TwinNet", GATED.replace("class", "LAGS = 7\n\n\nclass", 1)
    neighbours = Neighbours(Archive(settings_of(), known=[PARENT, twin]))
    async with thinking(proposes(), judged(IS_NEW)) as (mind, endpoint), seats(mind, neighbours) as seat:
        await seat.handle(bus)

    prompt = endpoint.received[1].json["messages"][1]["content"]
    assert "[c000009] TwinNet" in prompt
    assert "-LAGS = 7" in prompt


@pytest.mark.parametrize("named", ["c000001", "DeltaNet", ""])
async def test_a_draft_that_repeats_is_shown_what_it_repeats(bus: Bus, named: str) -> None:
    """With motivation and loss, so that the next draft can differ; the nearest, where the answer names none."""
    verdict: JsonValue = {"repeat": True, "candidate": named, "reason": "it corrects what is stored, too"}
    steps = (proposes(), judged(verdict), proposes(name="OtherNet", motivation=OTHER), judged(IS_NEW))
    async with thinking(*steps) as (mind, endpoint), seats(mind) as seat:
        await seat.handle(bus)

    again = endpoint.received[2].json["messages"][1]["content"]
    assert "[c000001] DeltaNet, held-out loss 1.5000" in again
    assert "The delta rule corrects what is stored." in again


async def test_a_reference_is_shown_with_its_numbers_and_its_analysis(bus: Bus) -> None:
    """In each draft of a seat."""
    reference = pb.Candidate(id="c000009", run="r1", proposal=pb.Proposal(name="Slots", motivation="Keys are slots."))
    reference.training.loss = 1.25
    reference.analysis.synthesis = "Keys point at slots of the memory."
    steps = (proposes(), judged(IS_REPEAT), proposes(name="OtherNet", motivation=OTHER), judged(IS_NEW))
    reference.verdict.fitness.value = 0.25
    parent = pb.Candidate()
    parent.CopyFrom(PARENT)
    parent.verdict.fitness.value = 0.5
    settings = settings_of()
    settings.pool.CopyFrom(events_pb2.PoolSettings(size=4, parents=1, references=1, cold_start=9, batch=9))
    neighbours = Neighbours(Archive(settings, known=[parent, reference]))
    async with thinking(*steps) as (mind, endpoint), seats(mind, neighbours) as seat:
        (event,) = await seat.handle(bus)

    bodies = [request.body for request in endpoint.received]
    assert event.candidate_proposed.proposal.name == "OtherNet"
    assert sum("Keys point at slots" in body and "Held-out loss 1.2500" in body for body in bodies) == 2
