"""Reliable cancellation of asyncio tasks, work that a stop cancels, and results of several."""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

AGAIN_SECONDS = 2.0
"""Long enough for a cancelled task to clean up, which a second cancellation would interrupt."""


async def end(*tasks: "asyncio.Task[Any]", within: float | None = None, again: float = AGAIN_SECONDS) -> None:
    """Cancel tasks, and again every `again` seconds, until all have ended or `within` seconds have passed.

    Exceptions of the tasks are ignored. One cancellation is not enough: in Python 3.11 `asyncio.wait_for`, which our
    client libraries use, drops a cancellation that arrives together with the result.
    """
    deadline = None if within is None else asyncio.get_running_loop().time() + within
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=again)
        if deadline is not None and asyncio.get_running_loop().time() >= deadline:
            return
    for task in tasks:
        if not task.cancelled():
            task.exception()  # asyncio need not report it as never retrieved


async def unless_stopped(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> T:
    """The result of `work`, which is cancelled if `stop` is set before its end. Raises KeyboardInterrupt then."""
    working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
    finally:
        await end(working, stopped)
    raise KeyboardInterrupt


async def all_ended(awaitables: Iterable[Awaitable[T]]) -> list[T]:
    """Results in order, after all have ended; raises the first exception in order."""
    results = []
    for result in await asyncio.gather(*awaitables, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results
