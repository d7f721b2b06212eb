"""A refused operation, heard where it was asked for.

NATS tells a client asynchronously that it may not publish or subscribe; whoever waits for the answer would only see a
time-out. Here the refusal ends the waiting.
"""

import asyncio
import re
from collections.abc import Coroutine
from typing import TypeVar

from services.chassis import metrics
from services.chassis.errors import Denied
from services.chassis.logs import get_logger

T = TypeVar("T")
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)


class Denials:
    """The operations of one connection that are being waited for, and what the server refused."""

    def __init__(self) -> None:
        self._waiting: set[tuple[str, asyncio.Future[None]]] = set()

    def hear(self, error: Exception) -> bool:
        """Take in what the client reports; whether it is a refusal, which is then logged as one."""
        found = _VIOLATION.search(str(error))
        if found is None:
            return False
        operation, subject = found[1].lower(), found[2]
        metrics.DENIED.labels(operation).inc()
        get_logger().error("NATS denied an operation", denied=True, operation=operation, subject=subject)
        denied = Denied(f"the credentials in use do not allow a {operation} to {subject}: NATS denied it")
        for waited_for, future in self._waiting:
            # The client writes errors in lower case. Without its inbox no request of a client can be answered.
            if not future.done() and (operation == "subscription" or waited_for == subject.lower()):
                future.set_exception(denied)
        return True

    async def watch(self, subject: str, operation: Coroutine[object, object, T]) -> T:
        """What the operation returns. Raises Denied as soon as the server refuses what it publishes to `subject`."""
        denied: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (subject.lower(), denied)
        self._waiting.add(entry)
        task = asyncio.ensure_future(operation)
        try:
            both: tuple[asyncio.Future[T] | asyncio.Future[None], ...] = (task, denied)
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if denied.done():
                denied.result()
            return task.result()
        finally:
            self._waiting.discard(entry)
            denied.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
