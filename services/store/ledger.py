"""The budget ledger of a run, shared by all services: booked usage from the log, and reservations of calls in flight.

Reservations lie in the archive's database, so that a store that was killed does not forget calls in flight. One is
freed when the log has booked its call. A reservation that was not settled within ten minutes, or whose call is not in
the log, is spent as a whole: its caller is gone, and the endpoint may have charged for it.
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

from services.chassis.errors import Busy, NotPossible
from services.domain.run_state import Budget
from services.store.port import Archive

LAPSE_SECONDS = 600.0
NANO = 1_000_000_000


@dataclass
class _Held:
    run: str
    tokens: int
    nanodollars: int
    lapses: float
    booked_at: int | None = None  # the sequence at which the log books it; 0: never; None: not settled yet

    def is_spent(self, now: float) -> bool:
        """Whether the reservation will never be released."""
        return self.booked_at == 0 or (self.booked_at is None and self.lapses <= now)


class RunLedger:
    """Grants reservations so that booked and reserved usage together never exceed a run's budget."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._lock = asyncio.Lock()
        self._held: dict[int, _Held] | None = None

    async def reserve(self, run: str, tokens: int, nanodollars: int | None) -> int:
        """The number of the reservation.

        Raises:
            NotPossible: what is booked leaves too little, or money is limited and the price is not known.
            Busy: only calls in flight stand in the way.
        """
        async with self._lock:
            held = await self._open()
            row = await self._archive.run(run)  # read after `held`: a call may be counted twice briefly, never missed
            budget = Budget(**{field.name: value for field, value in row.settings.budget.ListFields()})
            if budget.money is not None and nanodollars is None:
                raise NotPossible(f"run {run} has a budget in money, so every model needs prices in the mind file")
            own = [one for one in held.values() if one.run == run]
            now = time.monotonic()
            lost = _sum(one for one in own if one.is_spent(now))
            booked = row.state.spent.tokens + lost[0], round(row.state.spent.money * NANO) + lost[1]
            worst = tokens, nanodollars or 0
            if not _fits(budget, booked, worst):
                raise NotPossible(
                    f"the budget of run {run} does not cover another call of up to {tokens} tokens: "
                    f"{booked[0]} tokens and {booked[1] / NANO:g} dollars are spent"
                )
            if not _fits(budget, _sum(own), (booked[0] - lost[0], booked[1] - lost[1]), worst):
                raise Busy(f"calls in flight hold what is left of the budget of run {run}")
            number = await self._archive.reserve(run, tokens, nanodollars)
            held[number] = _Held(run, *worst, now + LAPSE_SECONDS)
            return number

    async def settle(self, number: int, tokens: int | None, nanodollars: int | None, booked_at: int) -> None:
        """Hold the call's usage until the log has booked it; idempotent. Unknown usage keeps the whole reservation."""
        async with self._lock:
            held = (await self._open()).get(number)
            if held is None or held.booked_at is not None:
                return  # lapsed and gone, or settled already
            held.tokens = held.tokens if tokens is None else tokens
            held.nanodollars = held.nanodollars if nanodollars is None else nanodollars
            held.booked_at = booked_at
            await self._open()

    async def _open(self) -> dict[int, _Held]:
        """Reservations that still count: initially those stored before a restart, later without booked ones."""
        if self._held is None:
            lapses = time.monotonic() + LAPSE_SECONDS
            self._held = {
                reservation.number: _Held(reservation.run, reservation.tokens, reservation.nanodollars or 0, lapses)
                for reservation in await self._archive.reservations()
            }
        applied = await self._archive.applied()
        for number in [number for number, one in self._held.items() if one.booked_at and one.booked_at <= applied]:
            await self._archive.unreserve(number)
            del self._held[number]
        return self._held


def _sum(held: Iterable[_Held]) -> tuple[int, int]:
    amounts = [(one.tokens, one.nanodollars) for one in held]
    return sum(tokens for tokens, _ in amounts), sum(money for _, money in amounts)


def _fits(budget: Budget, *parts: tuple[int, int]) -> bool:
    tokens, nanodollars = sum(part[0] for part in parts), sum(part[1] for part in parts)
    return (budget.tokens is None or tokens <= budget.tokens) and (
        budget.money is None or nanodollars <= round(budget.money * NANO)
    )
