"""Poison messages: a message that crashes the process which handles it becomes a dead letter after three crashes.

Most redeliveries are caused by outages, drains and crashes that other messages cause. A worker therefore writes a note
to the stream HANDLING before it handles a redelivery, and clears it when the handler ends. A note that was not cleared
makes the message a suspect, which is handled while the process handles nothing else, so that a further crash can be
attributed to it. A machine that fails three times with the same suspect cannot be distinguished from this.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from pydantic import BaseModel, ValidationError

from services.chassis.bus import Bus, Delivery
from services.chassis.bus.topology import HANDLING, HANDLING_SUBJECTS
from services.chassis.errors import Transient

PROCESS = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
MAX_LONE_CRASHES = 3
RETRY_SECONDS = 1.0


class PoisonMessage(Exception):  # noqa: N818
    """Too many processes crashed while they handled only this message."""


class SuspectLock:
    """A lock that ordinary work shares and a suspect message holds exclusively; waiting suspects take precedence."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._suspects = 0  # inside or waiting

    @asynccontextmanager
    async def hold(self, alone: bool) -> AsyncIterator[None]:
        """Hold the lock within the context; exclusively if `alone`."""
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


class _Note(BaseModel):
    process: str = ""
    in_hand: bool = False
    alone: bool = False
    deaths: int = 0  # of processes that handled the message and nothing else


class CrashNotes:
    """The crash notes of one process."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._lock = SuspectLock()
        self._late: set[asyncio.Task[None]] = set()  # notes that could not be cleared at once

    @asynccontextmanager
    async def watched(self, durable: str, delivery: Delivery) -> AsyncIterator[None]:
        """Hold notes and lock while a delivery is handled.

        Raises PoisonMessage, or Transient if the notes are unreachable.
        """
        if delivery.deliveries == 1:
            async with self._lock.hold(alone=False):
                yield
            return
        subject = f"{HANDLING_SUBJECTS}.{durable}.{delivery.sequence}"
        newest = await self._bus.newest(subject, HANDLING)
        note = _Note()
        if newest is not None:
            with suppress(ValidationError):  # no service wrote it: it is no evidence against the message
                note = _Note.model_validate_json(newest.body)
        died = note.in_hand and note.process != PROCESS
        deaths = note.deaths + (died and note.alone)
        if deaths >= MAX_LONE_CRASHES:
            raise PoisonMessage(f"{deaths} processes crashed while they handled only this message")
        alone = died or deaths > 0
        async with self._lock.hold(alone):
            own = _Note(process=PROCESS, in_hand=True, alone=alone, deaths=deaths)
            await self._write(subject, own)
            try:
                yield
            finally:
                await self._clear(subject, own.model_copy(update={"in_hand": False}))

    async def _write(self, subject: str, note: _Note) -> None:
        await self._bus.publish_body(subject, "", note.model_dump_json().encode())

    async def _clear(self, subject: str, note: _Note, delay: float = 0.0) -> None:
        if delay:
            await asyncio.sleep(delay)
        try:
            await asyncio.shield(self._write(subject, note))
        except Transient:  # an outage must not be mistaken for a crash of this process
            task = asyncio.create_task(self._clear(subject, note, RETRY_SECONDS))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
