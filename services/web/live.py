"""The live sources of the web page, shared by all pages of a run: archive, event log and announcements."""

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from services.chassis import tasks
from services.chassis.errors import BusLost, Transient
from services.contracts import archive_pb2_grpc, events_pb2, progress_pb2
from services.local.log import follow_run, open_log
from services.local.settings import ClientSettings, running_system
from services.report.progress import SILENT_SECONDS, EventRow, event_row

Stub: TypeAlias = "archive_pb2_grpc.ArchiveAsyncStub"
TIMEOUT_SECONDS = 30.0


class ArchiveConnection:
    """A connection to the Archive's API that is reopened with `opened` when it is lost or `identity` changes."""

    def __init__(
        self, opened: Callable[[], AbstractAsyncContextManager[Stub]], identity: Callable[[], object] = lambda: None
    ) -> None:
        self._opened, self._identity = opened, identity
        self._stub: Stub | None = None
        self._belongs_to: object = None
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()

    async def stub(self) -> Stub:
        """The current archive. Raises NotFound without one."""
        async with self._lock:
            if self._stub is None or self._identity() != self._belongs_to:
                await self._close()
                self._belongs_to = self._identity()
                self._stub = await self._stack.enter_async_context(self._opened())
            return self._stub

    async def call(self, method: str, request: object, timeout_seconds: float = TIMEOUT_SECONDS) -> Any:
        """One call, repeated over a new connection if the archive is unavailable. Raises AioRpcError."""
        stub = await self.stub()
        try:
            return await getattr(stub, method)(request, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        await self.lost(stub)
        return await getattr(await self.stub(), method)(request, timeout=timeout_seconds)

    async def lost(self, stub: Stub) -> None:
        """Close a lost connection, unless it was replaced already."""
        async with self._lock:
            if self._stub is stub:
                await self._close()

    async def close(self) -> None:
        """Close the connection and its reader process."""
        async with self._lock:
            await self._close()

    async def _close(self) -> None:
        stack, self._stack, self._stub = self._stack, AsyncExitStack(), None
        await stack.aclose()


LATEST = 200
"""Events that a newly opened page shows."""
RETRY_SECONDS = 2.0
MAX_POINTS = 2000


class RunLog:
    """The newest facts of a run, followed while its log is available."""

    def __init__(self, settings: ClientSettings, run: str) -> None:
        self._settings, self._run = settings, run
        self.progress = Progress()
        self._latest: deque[EventRow] = deque(maxlen=LATEST)
        self._earlier: dict[str, EventRow] = {}  # the newest of each candidate
        self._count = 0
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def facts(self) -> AsyncGenerator[list[EventRow]]:
        """The latest facts, then every further one as it happens."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())
        sent = 0
        while True:
            async with self._changed:
                while self._count <= sent:
                    await self._changed.wait()
                events = list(self._latest)[-(self._count - sent) :]
                sent = self._count
            yield events

    async def close(self) -> None:
        if self._task is not None:
            await tasks.end(self._task)

    async def _follow(self) -> None:
        last = 0
        while True:
            if running_system(self._settings) is not None or "ASI_NATS_URL" in os.environ:
                with contextlib.suppress(BusLost, Transient):
                    last = await self._follow_once(last)
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow_once(self, last: int) -> int:
        """Until the broker has gone; the sequence of the last message seen."""
        async with open_log(self._settings) as bus, bus.announcements(self._run) as announcements:
            listening = asyncio.create_task(self.progress.listen(announcements))
            try:
                start = last + 1 if last else max(1, await bus.last_sequence() + 1 - LATEST)
                async with contextlib.aclosing(follow_run(bus, self._run, start)) as log:
                    async for logged in log:
                        if logged is None:
                            continue
                        last = logged.sequence
                        with contextlib.suppress(DecodeError, ValueError):  # an event of a newer version
                            event = events_pb2.Event.FromString(logged.body)
                            fact = event_row(event, logged.sequence, self._earlier)
                            self._earlier[event.candidate] = fact
                            async with self._changed:
                                self._latest.append(fact)
                                self._count += 1
                                self._changed.notify_all()
            finally:
                listening.cancel()
        return last


class Progress:
    """The services' announcements, with the curve of each training since the first page was opened."""

    def __init__(self) -> None:
        self._announcements: dict[str, tuple[float, progress_pb2.Progress]] = {}
        self._curves: dict[tuple[str, int], list[tuple[int, float]]] = {}
        self._changed = asyncio.Condition()
        self._version = 0

    async def listen(self, announcements: asyncio.Queue[progress_pb2.Progress]) -> None:
        """Apply announcements until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                announced = await asyncio.wait_for(announcements.get(), RETRY_SECONDS)
                self._announcements[announced.candidate] = time.monotonic(), announced
                for training in announced.trainings:
                    curve = self._curves.setdefault((announced.candidate, training.seed), [])
                    if curve and curve[-1][0] > training.step:
                        curve.clear()  # the training was restarted
                    if not curve or curve[-1][0] < training.step:
                        curve.append((training.step, training.loss))
                        del curve[:-MAX_POINTS]
            oldest = time.monotonic() - SILENT_SECONDS
            self._announcements = {name: latest for name, latest in self._announcements.items() if latest[0] > oldest}
            async with self._changed:
                self._version += 1
                self._changed.notify_all()

    async def changes(self) -> AsyncIterator[dict[str, object]]:
        """The work of services and the trainings, again after each announcement.

        `waits_for` is empty while a service works; `points` are the new (step, training loss) pairs of a training.
        """
        sent: dict[tuple[str, int], int] = {}
        version = 0
        while True:
            async with self._changed:
                while self._version <= version:
                    await self._changed.wait()
                version = self._version
            works: list[dict[str, object]] = []
            trainings: list[dict[str, object]] = []
            for _, announced in self._announcements.values():
                name = announced.candidate
                works.append({
                    "candidate": name, "service": announced.service, "waits_for": announced.waits_for,
                    "attempt": announced.attempt, "since": announced.since.ToNanoseconds() / 1e9,
                })  # fmt: skip
                for training in announced.trainings:
                    if training.step >= training.steps:
                        continue
                    key = name, training.seed
                    points = [point for point in self._curves.get(key, []) if point[0] > sent.get(key, -1)]
                    sent[key] = training.step
                    trainings.append({
                        "candidate": name, "seed": training.seed, "step": training.step, "steps": training.steps,
                        "tokens_per_second": training.tokens_per_second, "seconds_left": training.seconds_left,
                        "points": points,
                    })  # fmt: skip
            yield {"trainings": trainings, "works": works}
