"""A circuit breaker: a model that keeps failing is left alone for a while, then tried with a single call."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CircuitPolicy:
    """Opens after `failures` in a row, for `seconds`, doubled at each failed trial up to `longest`."""

    failures: int = 3
    seconds: float = 15.0
    longest: float = 300.0


class Circuit:
    """Closed, open, or half-open. Times are seconds of one monotonic clock, given by the caller."""

    def __init__(self, policy: CircuitPolicy) -> None:
        self._policy = policy
        self._in_row = 0
        self._rest = policy.seconds
        self._until: float | None = None  # None: closed
        self._trying = False

    def wait(self, now: float) -> float:
        """Seconds until a call may be made; 0 when it may be made now."""
        if self._until is None:
            return 0.0
        if self._trying:
            return max(self._until - now, self._rest)
        return max(self._until - now, 0.0)

    def enter(self) -> None:
        """A call begins; of an open circuit whose rest is over it is the single trial."""
        self._trying = self._until is not None

    def succeeded(self) -> None:
        """A call was answered: the circuit closes."""
        self._in_row, self._rest, self._until, self._trying = 0, self._policy.seconds, None, False

    def failed(self, now: float) -> None:
        """A call failed for want of an endpoint that works."""
        self._in_row += 1
        if self._trying:
            self._rest = min(2.0 * self._rest, self._policy.longest)
        if self._trying or self._in_row >= self._policy.failures:
            self._until, self._trying = now + self._rest, False

    def abandoned(self) -> None:
        """A call ended without telling anything about the endpoint (the asker went away)."""
        self._trying = False
