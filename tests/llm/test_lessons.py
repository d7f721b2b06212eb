"""Gains reach the model that proposed, once."""

import pytest

from services.archive import PAGE
from services.contracts import archive_pb2 as arc
from services.contracts import candidate_pb2 as pb
from services.llm.minds import RewardFeed, gain_of
from services.llm.port import Role
from services.store.service import Context
from tests.archive_server import KnownArchive, archive_client
from tests.llm.budget_archive import BrokenArchive


def scored(name: str, fitness: float | None, parent: str = "") -> pb.Candidate:
    """A candidate; its calls say that model m proposed it after a failed call of another one."""
    record = pb.Candidate(id=name, state=pb.STATE_ARCHIVED, proposal=pb.Proposal(parent=parent))
    if fitness is not None:
        record.verdict.fitness.value = fitness
    record.calls.add(role="propose", model="other", error="server_error")
    record.calls.add(role="propose", model="m")
    return record


class Listed(KnownArchive):
    """Counts the pages that it gives."""

    times = 0

    async def ListCandidates(self, request: arc.ListCandidatesRequest, context: Context) -> arc.ListCandidatesReply:  # noqa: N802
        self.times += 1
        return await super().ListCandidates(request, context)


class Pupil:
    """Records the rewards."""

    def __init__(self) -> None:
        self.told: list[tuple[Role, str, str, float]] = []

    async def reward(self, role: Role, model: str, candidate: str, gain: float) -> None:
        self.told.append((role, model, candidate, gain))


async def test_the_model_that_proposed_is_rewarded() -> None:
    """With the fitness rewarded_model over the parent; a moment later the archive is not asked again."""
    unscored = [scored(f"u{number}", None) for number in range(PAGE)]
    archive = Listed(scored("c1", 0.5), scored("c2", 0.75, "c1"), scored("c3", 0.25, "c1"), *unscored)
    pupil = Pupil()
    async with archive_client(archive) as stub:
        lessons = RewardFeed(stub)
        await lessons.teach(pupil, "r1")
        await lessons.teach(pupil, "r1")

    assert pupil.told == [(Role.PROPOSE, "m", "r1/c2", 0.25), (Role.PROPOSE, "m", "r1/c3", 0.0)]
    assert archive.times == 2


@pytest.mark.parametrize(("own", "parents"), [(None, 0.5), (0.5, None)])
def test_without_a_fitness_there_is_no_gain(own: float | None, parents: float | None) -> None:
    """A judge that failed says nothing about the model that proposed."""
    assert gain_of(scored("c2", own, "c1"), {"c1": scored("c1", parents)}) is None


async def test_a_failing_archive_does_not_stop_the_reward() -> None:
    """A failed reward must not fail a seat."""
    pupil = Pupil()
    async with archive_client(BrokenArchive()) as stub:
        await RewardFeed(stub).teach(pupil, "r1")

    assert not pupil.told
