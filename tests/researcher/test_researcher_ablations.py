"""From a wanted ablation to its program: by the description that the original has, or by a language model."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.chassis.bus import Bus
from services.chassis.errors import Rejected
from services.contracts import candidate_pb2 as pb
from services.domain.zoo import baseline
from services.llm.scripted import ScriptedEndpoint, Step
from services.mixers.components import components_of
from services.mixers.description import CATALOGUE
from services.researcher.model_proposer import ModelProposer
from services.researcher.offline_proposer import NAME, OfflineProposer, without
from tests.llm.scripted_minds import scripted_mind
from tests.researcher.researcher_fixtures import (
    LEAKS,
    PARENT,
    PASSED,
    Archive,
    Checker,
    Neighbours,
    Seats,
    researcher,
    settings_of,
)

STRANGER = pb.Candidate(
    id="c000009", run="r1", stage="tiny", kind=pb.KIND_PROPOSAL, state=pb.STATE_ARCHIVED,
    proposal=pb.Proposal(name="Stranger", program=baseline("gated_delta_net").program, components=["output-gate"]),
)  # fmt: skip
ANSWER: dict[str, Any] = {
    "name": "StrangerWithoutGate",
    "motivation": "The output gate stood before the last projection; the read goes there as it is.",
    "components": ["delta-rule"],
    "ideas": [],
    "edits": [],
    "program": baseline("delta_net").program,
}


@asynccontextmanager
async def thinking(*reports: pb.CheckReport) -> AsyncIterator[tuple[Seats, ScriptedEndpoint]]:
    """A researcher whose mind answers every ablation alike."""
    neighbours = Neighbours(Archive(settings_of(), known=[PARENT, STRANGER]), Checker(*reports))
    step = Step(contains="You carry out ablations", answer=ANSWER, times=5)
    async with (
        scripted_mind(step) as (mind, endpoint),
        researcher(neighbours, lambda: ModelProposer(mind)) as service,
    ):
        yield service, endpoint


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_an_ablation_removes_the_component_and_little_else(name: str) -> None:
    """Every published mixer, every component that can be left out."""
    mixer = CATALOGUE[name]
    had = set(components_of(mixer))
    for component in had:
        changed = without(mixer, component)
        if changed is not None:
            has, text = set(components_of(changed[0])), changed[1]
            assert component not in has
            assert len(has - had) <= 2
            assert text
    assert without(mixer, "chunkwise-form") is None
    assert without(mixer, "warp-drive") is None


async def test_an_offline_program_loses_the_component_by_its_description(bus: Bus) -> None:
    """Nothing else of the program changes, and the seeds are the original's."""
    async with researcher(Neighbours(Archive(settings_of())), OfflineProposer) as service:
        (event,) = await service.handle(bus, of="c000001", component="short-convolution")

    proposal = event.candidate_proposed.proposal
    assert (proposal.parent, proposal.mind) == ("c000001", NAME)
    assert "short-convolution" not in proposal.components
    assert "delta-rule" in proposal.components
    assert "inputs.convolved is '' instead of 'qkv'" in proposal.motivation


async def test_a_component_that_cannot_be_removed_ends_the_seat_with_the_reason(bus: Bus) -> None:
    """A component that the program does not have, and one without which it is not sound."""
    async with researcher(Neighbours(Archive(settings_of())), OfflineProposer) as service:
        with pytest.raises(Rejected, match="cannot be left out"):
            await service.handle(bus, of="c000001", component="output-gate")
    unsound = Neighbours(Archive(settings_of()), Checker(LEAKS))
    async with researcher(unsound, OfflineProposer) as service:
        with pytest.raises(Rejected, match="not sound"):
            await service.handle(bus, of="c000001", component="short-convolution")


async def test_a_program_without_description_is_changed_by_the_mind(bus: Bus) -> None:
    """A refused try is told, as for any proposal."""
    async with thinking(LEAKS, PASSED) as (service, endpoint):
        (event,) = await service.handle(bus, of="c000009", component="output-gate")

    assert event.candidate_proposed.proposal.program.strip() == ANSWER["program"].strip()
    assert event.candidate_proposed.proposal.parent == "c000009"
    assert len(endpoint.received) == 2
