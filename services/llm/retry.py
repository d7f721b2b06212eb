"""Retry-After (RFC 9110, 10.2.3) and circuit breaking. Pure: time is an argument."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


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


class Circuit:
    """A circuit breaker: closed, open or half-open. Times are seconds of one monotonic clock.

    Opens after `failures` in a row, for `seconds`, doubled at each failed trial up to `longest`.
    """

    def __init__(self, failures: int, seconds: float, longest: float = 300.0) -> None:
        self._failures, self._seconds, self._longest = failures, seconds, longest
        self._in_row = 0
        self._pause = seconds
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
        self._in_row, self._pause, self._until, self._trying = 0, self._seconds, None, False

    def failed(self, now: float) -> None:
        """A call failed because of the endpoint."""
        self._in_row += 1
        if self._trying:
            self._pause = min(2.0 * self._pause, self._longest)
        if self._trying or self._in_row >= self._failures:
            self._until, self._trying = now + self._pause, False

    def abandoned(self) -> None:
        """A call ended without information about the endpoint, as when it was cancelled."""
        self._trying = False
