"""Tasks that drop a cancellation end all the same."""

import asyncio
import contextlib

import pytest

from services.chassis import tasks


async def _deaf(times: int) -> None:
    """Like a client whose reply and cancellation coincide."""
    for _ in range(times):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
    await asyncio.sleep(60)


async def test_a_task_that_drops_a_cancellation_is_cancelled_again() -> None:
    """Whether once or twice; one that has failed keeps its error."""

    async def failing() -> None:
        raise ValueError("broken")

    deaf, deafer, broken = (asyncio.create_task(work) for work in (_deaf(1), _deaf(2), failing()))
    await asyncio.sleep(0)

    async with asyncio.timeout(10):
        await tasks.end(deaf, deafer, broken, again=0.05)

    assert deaf.cancelled()
    assert deafer.cancelled()
    with pytest.raises(ValueError, match="broken"):
        broken.result()


async def test_the_time_for_an_end_may_be_limited() -> None:
    """Tasks that have not ended by then are abandoned."""
    deaf = asyncio.create_task(_deaf(5))
    await asyncio.sleep(0)

    async with asyncio.timeout(10):
        await tasks.end(deaf, within=0.1, again=0.05)
    left = not deaf.done()
    await tasks.end(deaf, again=0.05)

    assert left
    assert deaf.cancelled()
