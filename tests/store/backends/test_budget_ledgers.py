"""Every form of a run's budget ledger keeps the same promise: in a process, and in the store over each backend."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.contracts import events_pb2
from services.llm.budget import BudgetLedger, Limits, MemoryLedger, Reservation, Spend
from services.llm.minds import ArchiveLedger
from services.llm.port import BudgetExhausted
from services.store.backends import open_archive
from services.store.ledger import RunLedger
from services.store.service import ArchiveService
from tests.archive_server import archive_client
from tests.store.backends.archive_urls import archive_url
from tests.store.backends.conftest import BACKENDS
from tests.store.simulation import Simulation

RUN = "r1"


class Ledgers:
    """Makes ledgers of one form."""

    def __init__(self, url: str | None) -> None:
        self._url = url

    @asynccontextmanager
    async def with_limits(self, limits: Limits) -> AsyncIterator[BudgetLedger]:
        """A new ledger of a run with this budget."""
        if self._url is None:
            yield MemoryLedger(limits)
            return
        archive, simulation = open_archive(self._url), Simulation()
        await archive.open()
        simulation.start(budget=events_pb2.Budget(tokens=limits.tokens, money=limits.dollars))
        await archive.apply(simulation.log)
        try:
            async with archive_client(ArchiveService(archive, RunLedger(archive))) as stub:
                yield ArchiveLedger(stub)
        finally:
            await archive.close()


@pytest.fixture(params=["process", *BACKENDS])
def ledgers(request: pytest.FixtureRequest, tmp_path: Path) -> Ledgers:
    return Ledgers(None if request.param == "process" else archive_url(request.param, request, tmp_path))


async def at_once(ledger: BudgetLedger, worst: Spend) -> Reservation | None:
    """A reservation that is granted at once; None where the ledger refuses it, or waits."""
    waiting = asyncio.ensure_future(ledger.reserve(RUN, worst))
    await asyncio.wait([waiting], timeout=0.5)
    if not waiting.done():
        waiting.cancel()
        return None
    return None if isinstance(waiting.exception(), BudgetExhausted) else waiting.result()


async def test_a_call_that_could_exceed_is_refused(ledgers: Ledgers) -> None:
    """In tokens and in money."""
    async with ledgers.with_limits(Limits(tokens=100)) as ledger:
        with pytest.raises(BudgetExhausted, match="does not cover another call of up to 101 tokens"):
            await ledger.reserve(RUN, Spend(101))
        assert await at_once(ledger, Spend(100)) is not None


async def test_a_budget_in_money_requires_prices(ledgers: Ledgers) -> None:
    """A call without a price could exceed the budget."""
    async with ledgers.with_limits(Limits(dollars=1.0)) as ledger:
        with pytest.raises(BudgetExhausted, match="prices in the mind file"):
            await ledger.reserve(RUN, Spend(10, None))
        assert await at_once(ledger, Spend(10, 10)) is not None


async def test_a_reserve_waits_for_calls_in_flight_that_may_cost_less(ledgers: Ledgers) -> None:
    """A call that is settled twice counts once."""
    async with ledgers.with_limits(Limits(tokens=100)) as ledger:
        first = await ledger.reserve(RUN, Spend(90))
        assert await at_once(ledger, Spend(80)) is None
        await ledger.settle(first, Spend(5))
        await ledger.settle(first, Spend(50))

        assert await at_once(ledger, Spend(80)) is not None
        assert await at_once(ledger, Spend(16)) is None


async def test_a_call_of_unknown_cost_books_its_whole_reserve(ledgers: Ledgers) -> None:
    """Whoever does not know what it took assumes the worst."""
    async with ledgers.with_limits(Limits(tokens=100)) as ledger:
        await ledger.settle(await ledger.reserve(RUN, Spend(60)), None)

        assert await at_once(ledger, Spend(41)) is None
        assert await at_once(ledger, Spend(40)) is not None


async def test_concurrent_callers_stay_within_the_budget(ledgers: Ledgers) -> None:
    """Nobody is granted what others hold."""
    rng = random.Random(7)
    worsts = [Spend(rng.randint(1, 40)) for _ in range(12)]
    async with ledgers.with_limits(Limits(tokens=100)) as ledger:
        granted = await asyncio.gather(*(at_once(ledger, worst) for worst in worsts))

    assert 0 < sum(reservation.worst.tokens for reservation in granted if reservation is not None) <= 100
