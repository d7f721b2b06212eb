"""Messages that kill the process which handles them: counted, so that they are not delivered for ever.

The broker counts deliveries, and most of those after the first are due to outages, drains and the deaths of others. So
a worker leaves a note in the stream HANDLING before it handles a delivery after the first, and takes it back however
the handler ends. A note that its process did not live to take back makes the message a suspect: from then on the
process that handles it handles nothing else, which spares the others, and a note that is left even then is held
against it.
After three of them it becomes a dead letter. What this cannot tell apart is a machine that fails three times while it
handles one suspect alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

from services.chassis.bus import Bus, Delivery
from services.chassis.bus.topology import HANDLING_SUBJECTS
from services.chassis.errors import Transient

PROCESS = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
MOST_LONE_DEATHS = 3
RETRY_SECONDS = 1.0


class Deadly(Exception):  # noqa: N818
    """Too many processes died while they handled this message and nothing else."""


class Room:
    """Where work runs side by side, and a suspect's alone. Nobody enters while a suspect waits."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._suspects = 0  # inside or waiting

    @asynccontextmanager
    async def taken(self, alone: bool) -> AsyncIterator[None]:
        """A place in it, for as long as the context lasts."""
        async with self._changed:
            self._suspects += alone
            try:
                await self._changed.wait_for(lambda: not self._inside if alone else not self._suspects)
            except BaseException:
                self._suspects -= alone
                self._changed.notify_all()
                raise
            self._inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._suspects -= alone
                self._changed.notify_all()


@dataclass(frozen=True)
class _Note:
    process: str = ""
    in_hand: bool = False
    alone: bool = False
    deaths: int = 0  # of processes that handled the message and nothing else


class Deaths:
    """The notes of one process about the messages that it handles."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._room = Room()
        self._late: set[asyncio.Task[None]] = set()  # notes that could not be taken back at once

    @asynccontextmanager
    async def watched(self, durable: str, delivery: Delivery) -> AsyncIterator[None]:
        """A context for the handling of a delivery. Raises Deadly, or Transient while the notes are out of reach."""
        if delivery.deliveries == 1:
            async with self._room.taken(alone=False):
                yield
            return
        subject = f"{HANDLING_SUBJECTS}.{durable}.{delivery.sequence}"
        body = await self._bus.note(subject)
        note = _Note(**json.loads(body)) if body else _Note()
        died = note.in_hand and note.process != PROCESS
        deaths = note.deaths + (died and note.alone)
        if deaths >= MOST_LONE_DEATHS:
            raise Deadly(f"{deaths} processes died while they handled this message and nothing else")
        alone = died or deaths > 0
        async with self._room.taken(alone):
            await self._write(subject, _Note(PROCESS, True, alone, deaths))
            try:
                yield
            finally:
                await self._take_back(subject, _Note(PROCESS, False, alone, deaths))

    async def _write(self, subject: str, note: _Note) -> None:
        await self._bus.leave_note(subject, json.dumps(asdict(note)).encode())

    async def _take_back(self, subject: str, note: _Note) -> None:
        try:
            await asyncio.shield(self._write(subject, note))
        except Transient:  # this process lives: an outage is not to be taken for its death
            task = asyncio.create_task(self._insist(subject, note))
            self._late.add(task)
            task.add_done_callback(self._late.discard)

    async def _insist(self, subject: str, note: _Note) -> None:
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                return await self._write(subject, note)
            except Transient:
                continue
