"""One ledger for all services of a run: what the log has booked, and what calls in flight may still take.

Reservations lie in the archive's database, so that a store that was killed does not forget calls in flight. One that
nobody settles lapses after ten minutes: its caller is gone. A settled one is held for half a minute more at what the
call took, until the fact mind.answered has booked it: counted twice for a moment, never not at all.
"""

import asyncio
import time
from dataclasses import dataclass

from services.chassis.errors import Busy, NotPossible
from services.domain.run_state import Budget
from services.store.port import Archive, RunRow

LAPSE_SECONDS = 600.0
BOOKING_SECONDS = 30.0
NANO = 1_000_000_000


@dataclass
class _Held:
    run: str
    tokens: int
    nanodollars: int
    until: float


class RunLedger:
    """Grants the right to one call at a time, so that booked and reserved together never pass a run's budget."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._lock = asyncio.Lock()
        self._held: dict[int, _Held] | None = None

    async def reserve(self, row: RunRow, tokens: int, nanodollars: int | None) -> int:
        """The number of the reservation.

        Raises:
            NotPossible: what is booked leaves too little, or money is limited and the price is not known.
            Busy: only calls in flight stand in the way.
        """
        budget = Budget(**{field.name: value for field, value in row.settings.budget.ListFields()})
        if budget.money is not None and nanodollars is None:
            raise NotPossible(f"run {row.run} has a budget in money, so every model needs prices in the mind file")
        booked = row.state.spent.tokens, round(row.state.spent.money * NANO)
        worst = tokens, nanodollars or 0
        if not _fits(budget, booked, worst):
            raise NotPossible(
                f"the budget of run {row.run} does not cover another call of up to {tokens} tokens: "
                f"{booked[0]} tokens and {booked[1] / NANO:g} dollars are spent"
            )
        async with self._lock:
            held = [one for one in (await self._open()).values() if one.run == row.run]
            in_flight = sum(one.tokens for one in held), sum(one.nanodollars for one in held)
            if not _fits(budget, booked, in_flight, worst):
                raise Busy(f"calls in flight hold what is left of the budget of run {row.run}")
            number = await self._archive.reserve(row.run, tokens, nanodollars)
            (await self._open())[number] = _Held(row.run, *worst, time.monotonic() + LAPSE_SECONDS)
            return number

    async def settle(self, number: int, tokens: int | None, nanodollars: int | None) -> None:
        """Hold what the call took until the log has booked it; idempotent. Unknown numbers keep the whole reserve."""
        async with self._lock:
            held = (await self._open()).get(number)
            if held is None:
                return
            held.tokens = held.tokens if tokens is None else tokens
            held.nanodollars = held.nanodollars if nanodollars is None else nanodollars
            held.until = min(held.until, time.monotonic() + BOOKING_SECONDS)
            await self._archive.unreserve(number)

    async def _open(self) -> dict[int, _Held]:
        """Reservations that still count: at first those of the life before this one."""
        now = time.monotonic()
        if self._held is None:
            self._held = {
                one.number: _Held(one.run, one.tokens, one.nanodollars or 0, now + LAPSE_SECONDS)
                for one in await self._archive.reservations()
            }
        for number in [number for number, one in self._held.items() if one.until <= now]:
            del self._held[number]
            await self._archive.unreserve(number)
        return self._held


def _fits(budget: Budget, *parts: tuple[int, int]) -> bool:
    tokens, nanodollars = sum(part[0] for part in parts), sum(part[1] for part in parts)
    return (budget.tokens is None or tokens <= budget.tokens) and (
        budget.money is None or nanodollars <= round(budget.money * NANO)
    )
