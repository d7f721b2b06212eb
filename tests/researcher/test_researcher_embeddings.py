"""Motivations embedded by an endpoint, a scripted one over real HTTP."""

from pathlib import Path

import pytest

from services.chassis.bus import Bus
from services.chassis.errors import Transient
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.llm.openai_embedder import endpoint_embedder
from services.llm.scripted import Script, ScriptedEndpoint
from services.researcher.offline_proposer import OfflineProposer
from tests.researcher.researcher_fixtures import PARENT, Archive, Neighbours, researcher, settings_of


def embedded_by(name: str) -> Archive:
    """An archive whose parent was embedded by this embedder."""
    parent = pb.Candidate()
    parent.CopyFrom(PARENT)
    parent.proposal.embedder = name
    parent.proposal.ClearField("motivation_embedding")
    return Archive(settings_of(), known=[parent])


async def test_a_proposal_carries_the_endpoints_vector_and_its_name(bus: Bus, tmp_path: Path) -> None:
    """The archive keeps both, and searches within one space; what it took is booked and in the candidate's record."""
    async with ScriptedEndpoint(Script()) as server:
        endpoint = endpoint_embedder({"ASI_EMBEDDING_MODEL": "small", "OPENAI_BASE_URL": server.base_url})
        assert endpoint is not None
        neighbours = Neighbours(embedded_by("openai:small"))
        async with researcher(neighbours, OfflineProposer, bus, endpoint, tmp_path.as_uri()) as seat:
            (event,) = await seat.handle(bus)
        await endpoint.close()
        events = [events_pb2.Event.FromString(message.body) async for message in bus.read_log()]

    proposal = event.candidate_proposed.proposal
    assert (proposal.embedder, len(proposal.motivation_embedding)) == ("openai:small", 26)
    calls = [answered.mind_answered.call for answered in events]
    assert [call.role for call in calls] == ["embed", "embed"]  # what cognition is asked, and the motivation
    assert neighbours.cognition.embedders == ["openai:small"]
    assert [settlement.tokens for settlement in neighbours.archive.settled] == [call.prompt_tokens for call in calls]
    assert len(server.received) == 2


async def test_a_run_started_with_the_local_embedder_keeps_it(bus: Bus, tmp_path: Path) -> None:
    """Although an endpoint is described by now: it embeds what cognition is asked, no motivation."""
    async with ScriptedEndpoint(Script()) as server:
        endpoint = endpoint_embedder({"ASI_EMBEDDING_MODEL": "small", "OPENAI_BASE_URL": server.base_url})
        assert endpoint is not None
        neighbours = Neighbours(embedded_by("hashed-64-v1"))
        async with researcher(neighbours, OfflineProposer, bus, endpoint, tmp_path.as_uri()) as seat:
            (event,) = await seat.handle(bus)
            (baseline,) = await seat.handle(bus, "gated_delta_net", number=3)
        await endpoint.close()

    assert event.candidate_proposed.proposal.embedder == baseline.candidate_proposed.proposal.embedder == "hashed-64-v1"
    assert len(server.received) == len(neighbours.cognition.queries) == 1


async def test_a_seat_waits_for_the_embedder_of_its_run(bus: Bus) -> None:
    """A vector of another one would find no neighbours, and every idea would look new."""
    neighbours = Neighbours(embedded_by("openai:small"))
    async with researcher(neighbours, OfflineProposer) as seat:
        with pytest.raises(Transient, match="set ASI_EMBEDDER"):
            await seat.handle(bus)
