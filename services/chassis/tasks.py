"""Reliable cancellation of asyncio tasks."""

import asyncio
from typing import Any

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
