"""Reliable cancellation of asyncio tasks."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_SECONDS = 0.2


async def end(*tasks: "asyncio.Task[Any]", within: float | None = None) -> None:
    """Cancel tasks repeatedly until all have ended or `within` seconds have passed. Exceptions of the tasks are
    ignored.

    One cancellation is not enough: in Python 3.11 `asyncio.wait_for`, which our client libraries use, drops a
    cancellation that arrives together with the result.
    """
    deadline = None if within is None else asyncio.get_running_loop().time() + within
    while pending := _pending(tasks):
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=AGAIN_SECONDS)
        if deadline is not None and asyncio.get_running_loop().time() >= deadline:
            return
    for task in tasks:
        if not task.cancelled():
            task.exception()  # asyncio need not report it as never retrieved


def _pending(tasks: Iterable["asyncio.Task[Any]"]) -> list["asyncio.Task[Any]"]:
    return [task for task in tasks if not task.done()]
