"""Tasks that drop a cancellation end all the same; paged calls."""

import asyncio
import contextlib

import pytest

from services.chassis import tasks
from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb


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


async def test_a_paged_call_is_repeated_from_the_requested_page_to_the_last() -> None:
    """As the store numbers pages: by where the next one begins."""

    async def call(request: archive_pb2.ListCandidatesRequest, **options: float) -> archive_pb2.ListCandidatesReply:
        assert options == {"timeout": 5}
        start = int(request.page_token)
        page = [pb.Candidate(id=f"c{number}") for number in range(start, min(start + 2, 5))]
        return archive_pb2.ListCandidatesReply(candidates=page, next_page_token=str(start + 2) if start < 3 else "")

    request = archive_pb2.ListCandidatesRequest(page_token="2")  # noqa: S106 - a number
    pages = [[record.id for record in page.candidates] async for page in tasks.pages(call, request, 5)]

    assert pages == [["c2", "c3"], ["c4"]]
