"""Hard budgets: the worst case is reserved before a call, what it really took is booked afterwards.

A ledger never lets (booked + reserved) exceed a limit, so that a call which could exceed it is not made, with any
number of calls in flight. A call whose cost is unknown afterwards (cut off, timed out) is booked at its reserve.
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
    """Tokens and money; money in whole billionths of a dollar, so that sums are exact, None where no price is known."""

    tokens: int = 0
    nanodollars: int | None = 0

    def __add__(self, other: "Spend") -> "Spend":
        """An unknown price adds nothing; a ledger with a money limit refuses such calls beforehand."""
        return Spend(self.tokens + other.tokens, (self.nanodollars or 0) + (other.nanodollars or 0))

    def __sub__(self, other: "Spend") -> "Spend":
        return Spend(self.tokens - other.tokens, (self.nanodollars or 0) - (other.nanodollars or 0))

    @property
    def dollars(self) -> float | None:
        """The money in US dollars."""
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
    """What a call of this size takes."""
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
        money = None if self.dollars is None else math.floor(Fraction(self.dollars) * NANO)
        return (self.tokens is None or total.tokens <= self.tokens) and (
            money is None or (total.nanodollars or 0) <= money
        )


@dataclass(frozen=True, slots=True)
class Reservation:
    """The right to one call; settled exactly once."""

    run: str
    id: int
    worst: Spend


class BudgetLedger(Protocol):
    """Tracks what a run may still spend. All services of a run share one ledger.

    `reserve` returns once `worst` is set aside. While only calls in flight stand in the way it waits for them.
    It raises BudgetExhausted when what is booked leaves too little, PriceUnknown when money is limited and the price
    is not known, and Transient when the ledger is out of reach. `settle` books what a call took and frees the rest; it
    is idempotent, and books the whole reserve when `actual` is None. `booked_at` is the sequence of the event that
    records the call, where the log is what is booked in.
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
    """An in-process ledger. A run that was not opened has the limits given here (by default: none)."""

    def __init__(self, limits: Limits | None = None) -> None:
        unopened = limits or Limits()
        self._accounts: defaultdict[str, _Account] = defaultdict(lambda: _Account(unopened))
        self._changed = asyncio.Condition()
        self._next = 0

    async def open(self, run: str, limits: Limits, booked: Spend = Spend()) -> None:
        """Set a run's limits and, after a restart, what it has spent already; reservations in hand stay."""
        async with self._changed:
            account = self._accounts[run]
            account.limits, account.booked = limits, booked
            self._changed.notify_all()

    def booked(self, run: str) -> Spend:
        """What the run has spent."""
        return self._accounts[run].booked

    def reserved(self, run: str) -> Spend:
        """What calls in flight may still spend."""
        return self._accounts[run].reserved

    async def reserve(self, run: str, worst: Spend) -> Reservation:
        async with self._changed:
            while not self._fits(run, worst):
                await self._changed.wait()
            self._next += 1
            self._accounts[run].open[self._next] = worst
            return Reservation(run, self._next, worst)

    def _fits(self, run: str, worst: Spend) -> bool:
        """False while calls in flight stand in the way. Raises when even their end could not help."""
        account = self._accounts[run]
        if account.limits.dollars is not None and worst.nanodollars is None:
            raise PriceUnknown(f"run {run} has a budget in money, so every model needs prices in the mind file")
        if not account.limits.hold(account.booked + worst):
            raise BudgetExhausted(_shortage(run, account, worst))
        return account.limits.hold(account.booked + account.reserved + worst)

    async def settle(self, reservation: Reservation, actual: Spend | None, booked_at: int | None = None) -> None:  # noqa: ARG002
        async with self._changed:
            account = self._accounts[reservation.run]
            if account.open.pop(reservation.id, None) is not None:
                account.booked += reservation.worst if actual is None else actual
                self._changed.notify_all()


def _shortage(run: str, account: _Account, worst: Spend) -> str:
    limits, booked = account.limits, account.booked
    return (
        f"the budget of run {run} ({limits.tokens} tokens, {limits.dollars} dollars; None is unlimited) does not cover "
        f"another call of up to {worst.tokens} tokens and {worst.dollars} dollars: "
        f"{booked.tokens} tokens and {booked.dollars} dollars are spent"
    )
