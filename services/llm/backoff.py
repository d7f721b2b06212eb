"""How long to wait before the next attempt. Pure: randomness and the time of day are arguments.

Source: "full jitter", Brooker 2015, Exponential Backoff and Jitter; Retry-After, RFC 9110, 10.2.3.
"""

import math
import random
from collections.abc import Mapping
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
        """Seconds to wait before repetition 1, 2, …: never less than what the endpoint asked for."""
        ceiling = min(self.base * 2.0 ** (repetition - 1), self.longest)
        jittered = rng.uniform(0.1 * ceiling, ceiling)
        return jittered if retry_after is None else retry_after + 0.1 * jittered


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that a response asks to wait, from retry-after-ms or Retry-After (seconds or a date); None if unsaid."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    text = headers.get("retry-after")
    seconds = _number(text)
    return seconds if seconds is not None or text is None else _until(text, now)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0.0 else None


def _until(text: str, now: datetime) -> float | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    aware = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max((aware - now).total_seconds(), 0.0)
