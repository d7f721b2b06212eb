"""The budget ledger of a run, shared by all services: booked usage from the log, and reservations of calls in flight.

Reservations are stored in the archive's database and survive a crash of the store. One is released when the log has
booked its call. A reservation that was not settled within ten minutes, or whose call is not in the log, counts as
spent: its caller is gone, and the endpoint may have charged for it.
"""

import asyncio
import time
from dataclasses import dataclass

from services.chassis.errors import Busy, NotPossible
from services.llm.budget import NANO, Limits, Spend
from services.store.backends.rows import MAX_INTEGER
from services.store.port import Archive
from services.store.steering import policy_of

LAPSE_SECONDS = 600.0


@dataclass
class _OpenReservation:
    run: str
    worst: Spend
    lapses: float  # time.monotonic()
    booked_at: int | None = None  # the sequence at which the log books it; 0: never; None: not settled yet

    def is_spent(self, now: float) -> bool:
        """Whether the reservation will never be released."""
        return self.booked_at == 0 or (self.booked_at is None and self.lapses <= now)


class RunLedger:
    """Grants reservations so that booked and reserved usage together never exceed a run's budget."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._lock = asyncio.Lock()
        self._reservations: dict[int, _OpenReservation] | None = None

    async def reserve(self, run: str, tokens: int, nanodollars: int | None) -> int:
        """The number of the reservation.

        Raises NotPossible if the unbooked budget is too small, or money is limited and the price is unknown, and Busy
        if only reservations of calls in flight exceed the budget. ValueError: no call can cost so much.
        """
        if max(tokens, nanodollars or 0) > MAX_INTEGER:
            raise ValueError(f"a call cannot cost {tokens} tokens and {nanodollars or 0} nanodollars")
        async with self._lock:
            reservations = await self._open()
            # Read after the reservations: a call may be double-counted briefly, never missed.
            row = await self._archive.run(run)
            budget = policy_of(row.settings).budget
            if budget.money is not None and nanodollars is None:
                raise NotPossible(f"run {run} has a budget in money, so every model needs prices in the mind file")
            own = [reservation for reservation in reservations.values() if reservation.run == run]
            now = time.monotonic()
            limits, worst = Limits(budget.tokens, budget.money), Spend(tokens, nanodollars)
            booked = Spend(row.state.spent.tokens, round(row.state.spent.money * NANO))
            spent = sum((reservation.worst for reservation in own if reservation.is_spent(now)), booked)
            if not limits.hold(spent + worst):
                raise NotPossible(
                    f"the budget of run {run} does not cover another call of up to {tokens} tokens: "
                    f"{spent.tokens} tokens and {spent.dollars or 0:g} dollars are spent"
                )
            if not limits.hold(sum((reservation.worst for reservation in own), booked) + worst):
                raise Busy(f"calls in flight have reserved the rest of the budget of run {run}")
            number = await self._archive.reserve(run, tokens, nanodollars)
            reservations[number] = _OpenReservation(run, worst, now + LAPSE_SECONDS)
            return number

    async def settle(self, number: int, tokens: int | None, nanodollars: int | None, booked_at: int) -> None:
        """Reserve the call's usage until the log has booked it; idempotent. None keeps the reserved amount."""
        async with self._lock:
            reservation = (await self._open()).get(number)
            if reservation is None or reservation.booked_at is not None:
                return  # released or settled already
            worst = reservation.worst
            reservation.worst = Spend(
                worst.tokens if tokens is None else tokens, worst.nanodollars if nanodollars is None else nanodollars
            )
            reservation.booked_at = booked_at
            await self._open()

    async def _open(self) -> dict[int, _OpenReservation]:
        """Unreleased reservations; at the first call those stored before a restart."""
        if self._reservations is None:
            lapses = time.monotonic() + LAPSE_SECONDS
            self._reservations = {
                stored.number: _OpenReservation(stored.run, Spend(stored.tokens, stored.nanodollars), lapses)
                for stored in await self._archive.reservations()
            }
        applied = await self._archive.applied()
        for number in [n for n, open_ in self._reservations.items() if open_.booked_at and open_.booked_at <= applied]:
            await self._archive.unreserve(number)
            del self._reservations[number]
        return self._reservations
