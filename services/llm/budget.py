"""Hard budgets: the worst case is reserved before a call, the actual cost is booked afterwards.

The sum of booked and reserved amounts never exceeds a limit, whatever the number of calls in flight. A call of unknown
cost (interrupted, timed out) is booked at its reservation.
"""

import asyncio
import math
from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from services.llm.port import BudgetExhausted, PriceUnknown

NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Spend:
    """Tokens, and money in billionths of a dollar, so that sums are exact; None without a price."""

    tokens: int = 0
    nanodollars: int | None = 0

    def __add__(self, other: "Spend") -> "Spend":
        """An unknown price adds nothing; ledgers with a limit of money refuse such calls."""
        return Spend(self.tokens + other.tokens, (self.nanodollars or 0) + (other.nanodollars or 0))

    @property
    def dollars(self) -> float | None:
        return None if self.nanodollars is None else self.nanodollars / NANO


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> int:
        """The price of a call in billionths of a dollar, rounded up."""
        dollars_per_million = Fraction(self.prompt) * prompt_tokens + Fraction(self.completion) * completion_tokens
        return math.ceil(dollars_per_million * NANO / 1_000_000)


def spend(price: Price | None, prompt_tokens: int, completion_tokens: int) -> Spend:
    money = None if price is None else price.of(prompt_tokens, completion_tokens)
    return Spend(prompt_tokens + completion_tokens, money)


@dataclass(frozen=True, slots=True)
class Limits:
    """The budget of a run; None means no limit. A negative one raises ValueError."""

    tokens: int | None = None
    dollars: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("tokens", self.tokens), ("dollars", self.dollars)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"budget.{name} must be 0 or more, not {value!r}")

    def hold(self, total: Spend) -> bool:
        """Whether `total` stays within the budget."""
        return (self.tokens is None or total.tokens <= self.tokens) and (
            self.dollars is None or (total.nanodollars or 0) <= round(self.dollars * NANO)
        )


@dataclass(frozen=True, slots=True)
class Reservation:
    """A granted reservation for one call; settled exactly once."""

    run: str
    id: int
    worst: Spend


class BudgetLedger(Protocol):
    """Tracks the budget of runs. All services of a run share one ledger.

    `reserve` returns once `worst` is reserved; it waits while only reservations of calls in flight exceed the budget.
    It raises BudgetExhausted if the unbooked budget is too small, PriceUnknown if money is limited and the price is
    unknown, and Transient if the ledger is unreachable. `settle` books the actual cost, or the whole reservation if it
    is None; it is idempotent. `booked_at` is the sequence of the event that records the call, if there is one.
    """

    async def reserve(self, run: str, worst: Spend) -> Reservation: ...

    async def settle(self, reservation: Reservation, actual: Spend | None, booked_at: int | None = None) -> None: ...


@dataclass
class _Account:
    limits: Limits
    booked: Spend = Spend()
    open: dict[int, Spend] = field(default_factory=dict)

    @property
    def reserved(self) -> Spend:
        return sum(self.open.values(), Spend())


class MemoryLedger:
    """An in-process ledger. `limits` apply to runs that were not opened."""

    def __init__(self, limits: Limits | None = None) -> None:
        unopened = limits or Limits()
        self._accounts: defaultdict[str, _Account] = defaultdict(lambda: _Account(unopened))
        self._changed = asyncio.Condition()
        self._next = 0

    async def open(self, run: str, limits: Limits, booked: Spend = Spend()) -> None:
        """Set a run's limits and booked cost; open reservations remain."""
        async with self._changed:
            account = self._accounts[run]
            account.limits, account.booked = limits, booked
            self._changed.notify_all()

    def booked(self, run: str) -> Spend:
        return self._accounts[run].booked

    def reserved(self, run: str) -> Spend:
        """The reserved cost of calls in flight."""
        return self._accounts[run].reserved

    async def reserve(self, run: str, worst: Spend) -> Reservation:
        async with self._changed:
            await self._changed.wait_for(lambda: self._fits(run, worst))
            self._next += 1
            self._accounts[run].open[self._next] = worst
            return Reservation(run, self._next, worst)

    def _fits(self, run: str, worst: Spend) -> bool:
        """Whether the call fits beside reservations. Raises if it does not fit even without them."""
        account = self._accounts[run]
        if account.limits.dollars is not None and worst.nanodollars is None:
            raise PriceUnknown(f"run {run} has a budget in money, so every model needs prices in the mind file")
        if not account.limits.hold(account.booked + worst):
            limits, booked = account.limits, account.booked
            raise BudgetExhausted(
                f"the budget of run {run} ({limits.tokens} tokens, {limits.dollars} dollars; None is unlimited) does "
                f"not cover another call of up to {worst.tokens} tokens and {worst.dollars} dollars: "
                f"{booked.tokens} tokens and {booked.dollars} dollars are spent"
            )
        return account.limits.hold(account.booked + account.reserved + worst)

    async def settle(self, reservation: Reservation, actual: Spend | None, booked_at: int | None = None) -> None:  # noqa: ARG002
        async with self._changed:
            account = self._accounts[reservation.run]
            if account.open.pop(reservation.id, None) is not None:
                account.booked += reservation.worst if actual is None else actual
                self._changed.notify_all()
