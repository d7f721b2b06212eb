"""Budgets are never exceeded, by concurrent calls or under faults."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.errors import Rejected
from services.llm.budget import NANO, Limits, MemoryLedger, Price, Spend, spend
from services.llm.port import BudgetExhausted, MindError, PriceUnknown
from services.llm.scripted import FaultName, Step
from tests.llm.scripted_minds import GOOD, KEY, script, served
from tests.llm.scripted_minds import question as asked_question

calls = st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(limit=st.integers(0, 400), requests=calls, seed=st.integers(0, 1000))
def test_no_interleaving_of_calls_exceeds_the_budget(
    limit: int, requests: list[tuple[int, float, bool]], seed: int
) -> None:
    """At every moment, booked plus reserved stays within the limits of both kinds, and all askers come to an end."""
    ledger, rng = MemoryLedger(), random.Random(seed)

    async def call_model(worst: int, share: float, known: bool) -> None:
        await asyncio.sleep(0.001 * rng.random())
        try:
            reservation = await ledger.reserve("r", Spend(worst, 2 * worst))
        except BudgetExhausted:
            return
        _within(ledger, limit)
        await asyncio.sleep(0.001 * rng.random())
        used = int(share * worst)
        await ledger.settle(reservation, Spend(used, 2 * used) if known else None)
        _within(ledger, limit)

    async def everyone() -> None:
        await ledger.open("r", Limits(tokens=limit, dollars=1.9 * limit / NANO))
        await asyncio.wait_for(asyncio.gather(*(call_model(*call) for call in requests)), 10)

    asyncio.run(everyone())

    assert ledger.reserved("r") == Spend()


def _within(ledger: MemoryLedger, limit: int) -> None:
    total = ledger.booked("r") + ledger.reserved("r")
    assert total.tokens <= limit
    assert (total.nanodollars or 0) <= 1.9 * limit + 1


@pytest.mark.parametrize("seed", range(3))
async def test_concurrent_calls_under_faults_stay_within_the_budget(seed: int) -> None:
    """The usage counted by the endpoint never exceeds the limit; some questions are answered."""
    rng = random.Random(seed)
    fates: list[FaultName | None] = [
        None,
        None,
        "rate_limit",
        "malformed",
        "disconnect",
        "truncated",
        "no_usage",
        "server_error",
    ]
    steps = [Step(fault=rng.choice(fates), answer=GOOD, completion_tokens=rng.randint(1, 200)) for _ in range(60)]
    ledger = MemoryLedger()
    await ledger.open("r1", Limits(tokens=10_000))
    async with served(script(*steps), ledger) as (_, mind):
        results = await asyncio.gather(*(mind.ask(asked_question(f"{n}")) for n in range(40)), return_exceptions=True)

    assert ledger.booked("r1").tokens <= 10_000
    assert ledger.reserved("r1") == Spend()
    assert any(isinstance(result, BudgetExhausted) for result in results)
    assert all(not isinstance(result, BaseException) or isinstance(result, MindError) for result in results)


async def test_an_impossible_usage_is_not_booked() -> None:
    """No event could hold it; the answer is used, and booked at its reservation, as one without any usage."""
    ledger, step = MemoryLedger(Limits(tokens=100_000)), Step(answer=GOOD, completion_tokens=10**30)
    async with served(script(step), ledger) as (server, mind):
        await mind.ask(asked_question())
    limit = server.received[0].json["max_tokens"]

    assert len(server.received) == 1
    assert limit <= ledger.booked("r1").tokens < 100_000


async def test_a_call_that_could_exceed_is_not_made() -> None:
    """Nothing is sent; the worker loop gets a rejection at stage policy."""
    ledger = MemoryLedger(Limits(tokens=150))
    async with served(script(), ledger) as (server, mind):
        with pytest.raises(BudgetExhausted, match="150 tokens") as caught:
            await mind.ask(asked_question())

    assert server.received == []
    assert isinstance(caught.value, Rejected)
    assert caught.value.stage == "policy"


async def test_a_reserve_waits_for_calls_in_flight_that_may_cost_less() -> None:
    """Otherwise the last part of a budget could not be used."""
    ledger = MemoryLedger(Limits(tokens=100))
    first = await ledger.reserve("r", Spend(90))
    second = asyncio.create_task(ledger.reserve("r", Spend(80)))
    await asyncio.sleep(0.01)
    waited = not second.done()
    await ledger.settle(first, Spend(5))
    await ledger.settle(first, Spend(5))

    assert waited
    assert (await asyncio.wait_for(second, 1)).worst == Spend(80)
    assert ledger.booked("r") == Spend(5)


async def test_a_budget_in_money_requires_prices() -> None:
    """A call without a price could exceed the budget."""
    with pytest.raises(PriceUnknown, match="prices in the mind file"):
        await MemoryLedger(Limits(dollars=1.0)).reserve("r", spend(None, 10, 10))


def test_prices_are_exact_and_rounded_up() -> None:
    """A thousand calls must not lose a cent to rounding."""
    assert spend(Price(0.5, 2.0), 1_000_000, 500_000) == Spend(1_500_000, 1_500_000_000)
    assert spend(Price(0.1, 0.0), 1, 0).nanodollars in (100, 101)


def test_a_budget_below_zero_is_refused() -> None:
    """With the field's name."""
    with pytest.raises(ValueError, match=r"budget\.dollars"):
        Limits(dollars=float("nan"))
    assert KEY not in repr(Limits())
