"""A refused operation, heard where it was asked for.

NATS tells a client asynchronously that it may not publish or subscribe; whoever waits for the answer would only see a
time-out. Here the refusal ends the waiting.
"""

import asyncio
import re
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from services.chassis import metrics
from services.chassis.errors import Denied
from services.chassis.logs import get_logger

T = TypeVar("T")
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)


class Denials:
    """The operations of one connection that are being waited for, and what the server refused."""

    def __init__(self) -> None:
        self._waiting: set[_Waiting] = set()

    def hear(self, error: Exception) -> bool:
        """Take in what the client reports; whether it is a refusal, which is then logged as one."""
        found = _VIOLATION.search(str(error))
        if found is None:
            return False
        operation, subject = found[1].lower(), found[2]
        metrics.DENIED.labels(operation).inc()
        get_logger().error("NATS denied an operation", denied=True, operation=operation, subject=subject)
        denied = Denied(f"the credentials in use do not allow a {operation} to {subject}: NATS denied it")
        for waiting in self._waiting:
            # The client writes errors in lower case. Without its inbox no request of a client can be answered.
            if operation == "subscription" or waiting.subject == subject.lower():
                waiting.end(denied)
        return True

    async def watch(self, subject: str, operation: Awaitable[T]) -> T:
        """What the operation returns. Raises Denied as soon as the server refuses what it publishes to `subject`."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine is awaited in a task
        waiting = _Waiting(subject.lower(), task, task.cancelling())
        self._waiting.add(waiting)
        try:
            return await operation
        except asyncio.CancelledError:
            # As in asyncio.timeout: the cancellation is ours unless somebody else wants the task to end, too.
            if waiting.denied is not None and task.uncancel() <= waiting.cancelling:
                raise waiting.denied from None
            raise
        finally:
            self._waiting.discard(waiting)


@dataclass(eq=False, slots=True)
class _Waiting:
    subject: str
    task: asyncio.Task[object]
    cancelling: int  # how often its end was asked for before the operation
    denied: Denied | None = None

    def end(self, denied: Denied) -> None:
        if self.denied is None:
            self.denied = denied
            self.task.cancel()
