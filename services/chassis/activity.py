"""What this process is doing about a candidate, told to whoever listens: `asi-arch run`, `watch`, the web page.

The worker opens an `Activity` for each delivery; whoever does the work below it reports with `training` and
`waiting_for`, without knowing of the bus. Outside of a delivery, as in a command line tool, reports go nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar

from services.contracts import progress_pb2 as pb

REPEAT_SECONDS = 3.0
SUBJECT = "asi.progress"

_current: ContextVar[Activity | None] = ContextVar("activity", default=None)


class Activity:
    """The state of one delivery. `send` publishes it; what it raises is not our work's problem."""

    def __init__(
        self, run: str, candidate: str, service: str, attempt: int, send: Callable[[pb.Progress], Awaitable[None]]
    ) -> None:
        self._attempt = attempt
        self._send = send
        self._state = pb.Progress(run=run, candidate=candidate, service=service, attempt=attempt)
        self._state.since.FromNanoseconds(time.time_ns())
        self._changed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Tell of it for as long as the context lasts: at every change, and every few seconds."""
        token = _current.set(self)
        telling = asyncio.create_task(self._tell())
        try:
            yield
        finally:
            _current.reset(token)
            telling.cancel()

    async def _tell(self) -> None:
        while True:
            self._changed.clear()
            with contextlib.suppress(Exception):
                await self._send(self._state)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), REPEAT_SECONDS)

    def train(self, training: pb.TrainingProgress) -> None:
        """Set where the training of a seed stands."""
        others = [one for one in self._state.trainings if one.seed != training.seed]
        del self._state.trainings[:]
        self._state.trainings.extend(sorted([*others, training], key=lambda one: one.seed))
        self._changed.set()

    def wait(self, for_: str, attempt: int) -> None:
        """Set what is waited for; empty: nothing any more."""
        self._state.waits_for = for_
        self._state.attempt = attempt or self._attempt
        self._state.since.FromNanoseconds(time.time_ns())
        self._changed.set()


def training(progress: pb.TrainingProgress) -> None:
    """Report where the training of a seed stands."""
    if (activity := _current.get()) is not None:
        activity.train(progress)


@contextlib.contextmanager
def waiting_for(what: str, attempt: int) -> Iterator[None]:
    """Report that the work waits for something, as in "the model", for as long as the context lasts."""
    activity = _current.get()
    if activity is not None:
        activity.wait(what, attempt)
    try:
        yield
    finally:
        if activity is not None:
            activity.wait("", 0)
