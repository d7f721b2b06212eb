# ruff: noqa: ARG002 - signatures are those of the port
"""A run that mixes a language model with the offline search gives seats to the one that pays."""

from collections.abc import Sequence

from services.chassis.errors import Rejected
from services.contracts import archive_pb2, events_pb2
from services.contracts import candidate_pb2 as pb
from services.researcher.app import MixedProposer, offline_is_drawn
from services.researcher.draft import Context, Draft, Refusal


class Fixed:
    """Always proposes the same; `exhausted` has nothing to offer."""

    def __init__(self, name: str, exhausted: bool = False) -> None:
        self.name, self.exhausted = name, exhausted

    async def propose(self, context: Context, refusals: Sequence[Refusal]) -> Draft:
        if self.exhausted:
            raise Rejected("propose", "nothing new")
        return Draft(self.name, "because", "x = 1")

    async def repeats(self, context: Context, draft: Draft, neighbours: Sequence[pb.Candidate]) -> str:
        return f"asked {self.name}"

    async def without(self, original: pb.Candidate, record: pb.Candidate, refusals: Sequence[Refusal]) -> Draft:
        return Draft(self.name, "because", "x = 1")


def outcome(offline: bool, gain: float) -> archive_pb2.MoveOutcome:
    return archive_pb2.MoveOutcome(moves=["some-move"] if offline else [], gain=gain)


def context(*history: archive_pb2.MoveOutcome, number: int = 1) -> Context:
    record = pb.Candidate(id=f"c{number}", run="r1")
    return Context(record, pb.Candidate(id="c0"), (), (), history, (), events_pb2.RunSettings(seed=3))


def test_the_one_that_pays_gets_most_seats() -> None:
    """And the other one still gets some: what does not pay now may pay later."""
    history = [outcome(True, -0.1) for _ in range(8)] + [outcome(False, 0.1) for _ in range(8)]
    offline = sum(offline_is_drawn(history, f"{seat}") for seat in range(500))

    assert offline < 25
    assert 150 < sum(offline_is_drawn([], f"{seat}") for seat in range(500)) < 350


def test_a_seat_handled_twice_chooses_alike() -> None:
    """A redelivered request must not switch between the two."""
    assert len({offline_is_drawn([outcome(True, 0.1)], "7:c12:mix") for _ in range(5)}) == 1


async def test_an_exhausted_search_leaves_the_seat_to_the_model() -> None:
    """Instead of a rejection."""
    mixed = MixedProposer(Fixed("model"), Fixed("offline", exhausted=True))

    names = {(await mixed.propose(context(number=number), [])).name for number in range(20)}

    assert names == {"model"}


async def test_drafts_of_the_search_are_not_judged_by_the_model() -> None:
    """Their motivations are made of moves."""
    mixed = MixedProposer(Fixed("model"), Fixed("offline"))

    assert await mixed.repeats(context(), Draft("a", "b", "c", moves=("some-move",)), []) == ""
    assert await mixed.repeats(context(), Draft("a", "b", "c"), []) == "asked model"
