"""Back-off, Retry-After and circuit breaking. Pure: randomness and time are arguments.

Source: "full jitter", Brooker 2015, Exponential Backoff and Jitter; Retry-After, RFC 9110, 10.2.3.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class BackOff:
    """`attempts` in all; before the n-th repetition a random wait of up to `base` · 2ⁿ⁻¹ seconds, at most `longest`."""

    attempts: int = 5
    base: float = 1.0
    longest: float = 60.0

    def wait(self, repetition: int, rng: random.Random, retry_after: float | None) -> float:
        """Seconds to wait before repetition 1, 2, …; at least what the endpoint requested."""
        ceiling = min(self.base * 2.0 ** (repetition - 1), self.longest)
        jittered = rng.uniform(0.1 * ceiling, ceiling)
        return jittered if retry_after is None else retry_after + 0.1 * jittered


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """The wait that a response requests by retry-after-ms or Retry-After (seconds or a date), in seconds."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    aware = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max((aware - now).total_seconds(), 0.0)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0.0 else None


@dataclass(frozen=True, slots=True)
class CircuitPolicy:
    """Opens after `failures` in a row, for `seconds`, doubled at each failed trial up to `longest`."""

    failures: int = 3
    seconds: float = 15.0
    longest: float = 300.0


class Circuit:
    """A circuit breaker: closed, open or half-open. Times are seconds of one monotonic clock."""

    def __init__(self, policy: CircuitPolicy) -> None:
        self._policy = policy
        self._in_row = 0
        self._pause = policy.seconds
        self._until: float | None = None  # None: closed
        self._trying = False

    def wait(self, now: float) -> float:
        """Seconds until a call may be made; 0 for now."""
        if self._until is None:
            return 0.0
        if self._trying:
            return max(self._until - now, self._pause)
        return max(self._until - now, 0.0)

    def enter(self) -> None:
        """A call begins; if the circuit is open, it is the trial call."""
        self._trying = self._until is not None

    def succeeded(self) -> None:
        """A call succeeded: the circuit closes."""
        self._in_row, self._pause, self._until, self._trying = 0, self._policy.seconds, None, False

    def failed(self, now: float) -> None:
        """A call failed because of the endpoint."""
        self._in_row += 1
        if self._trying:
            self._pause = min(2.0 * self._pause, self._policy.longest)
        if self._trying or self._in_row >= self._policy.failures:
            self._until, self._trying = now + self._pause, False

    def abandoned(self) -> None:
        """A call ended without information about the endpoint, as when it was cancelled."""
        self._trying = False


@dataclass(frozen=True, slots=True)
class Clock:
    """`monotonic` measures seconds, `now` reads dates, `sleep` waits seconds."""

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
