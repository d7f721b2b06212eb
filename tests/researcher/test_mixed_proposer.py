# ruff: noqa: ARG002 - signatures are those of the port
"""A run that mixes a language model with the offline search gives seats to the one that pays."""

from collections.abc import Sequence

from services.chassis.errors import Rejected
from services.contracts import archive_pb2, events_pb2
from services.contracts import candidate_pb2 as pb
from services.researcher.draft import Context, Draft, Refusal
from services.researcher.mixed_proposer import EQUAL_COSTS, MixedProposer, offline_is_drawn, seat_costs


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


def test_the_more_successful_proposer_gets_most_seats() -> None:
    """And the other one still gets some: what does not pay now may pay later."""
    history = [outcome(True, -0.1) for _ in range(8)] + [outcome(False, 0.1) for _ in range(8)]
    offline = sum(offline_is_drawn(history, f"{seat}") for seat in range(500))

    assert offline < 25
    assert 150 < sum(offline_is_drawn([], f"{seat}") for seat in range(500)) < 350


def seat(offline: bool, seconds: float, tokens: int = 0, price: float | None = None) -> pb.Candidate:
    record = pb.Candidate(kind=pb.KIND_PROPOSAL, state=pb.STATE_ARCHIVED)
    record.proposal.moves[:] = ["some-move"] if offline else []
    record.training.seeds.add().measurements.seconds = seconds
    role = "analyse" if offline else "propose"
    if tokens:
        record.calls.add(role=role, prompt_tokens=tokens - 10, completion_tokens=10, seconds=5.0, price=price)
    return record


def test_a_cheap_proposer_of_equal_success_gets_most_seats() -> None:
    """And one that costs three times as much gets them where it succeeds five times as often."""
    costs = seat_costs([seat(True, 60.0), seat(True, 60.0), seat(False, 55.0, tokens=9000)])
    alike = [outcome(offline, gain) for offline in (True, False) for gain in (0.1, -0.1) for _ in range(20)]
    far_better = [outcome(False, 0.1) for _ in range(40)] + [outcome(True, 0.1 - 0.2 * (n > 7)) for n in range(40)]

    assert costs == {True: 0.25, False: 0.75}
    assert sum(offline_is_drawn(alike, f"{number}", costs) for number in range(200)) > 190
    assert 60 < sum(offline_is_drawn(alike, f"{number}") for number in range(200)) < 140
    assert sum(offline_is_drawn(far_better, f"{number}", costs) for number in range(200)) < 100


def test_time_counts_as_much_as_tokens_and_money_counts_where_prices_are_known() -> None:
    """What judge and analyst are paid for a seat of the search is a cost of that seat."""
    slow_search = seat_costs([seat(True, 300.0), seat(False, 95.0, tokens=9000)])
    by_tokens = seat_costs([seat(True, 50.0, tokens=3000), seat(False, 50.0, tokens=9000)])
    by_price = seat_costs([seat(True, 50.0, tokens=3000, price=0.01), seat(False, 50.0, tokens=9000, price=0.01)])

    assert slow_search == {True: 0.375, False: 0.625}
    assert by_tokens == {True: 0.375, False: 0.625}
    assert by_price == {True: 0.5, False: 0.5}


def test_costs_are_equal_until_both_have_proposed() -> None:
    assert seat_costs([]) == EQUAL_COSTS
    assert seat_costs([seat(True, 60.0), pb.Candidate(kind=pb.KIND_BASELINE)]) == EQUAL_COSTS


def test_a_redelivered_seat_chooses_the_same_proposer() -> None:
    """A redelivered request must not switch between the two."""
    assert len({offline_is_drawn([outcome(True, 0.1)], "7:c12:mix") for _ in range(5)}) == 1


async def test_an_exhausted_search_leaves_the_seat_to_the_model() -> None:
    """The model proposes instead of a rejection."""
    mixed = MixedProposer(Fixed("model"), Fixed("offline", exhausted=True))

    names = {(await mixed.propose(context(number=number), [])).name for number in range(20)}

    assert names == {"model"}


async def test_drafts_of_the_search_are_not_judged_by_the_model() -> None:
    """Their motivations are made of moves."""
    mixed = MixedProposer(Fixed("model"), Fixed("offline"))

    assert await mixed.repeats(context(), Draft("a", "b", "c", moves=("some-move",)), []) == ""
    assert await mixed.repeats(context(), Draft("a", "b", "c"), []) == "asked model"
