"""The log read and hashed by a process of its own, while another one rebuilds from what it has read.

    async with reading(settings, "r7") as batches:
        async for incoming in batches: ...

The child is `python -m services.store.reading SUBJECT [bodies]`: it connects, says so, waits for a line on its standard
input, then writes frames of messages to its standard output; an empty frame ends the log.
"""

import asyncio
import os
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import IO

from services.chassis.bus import Bus
from services.chassis.errors import BusLost, SettingsError, Transient
from services.chassis.service import SETTINGS_EXIT, run_fast
from services.chassis.settings import ServiceSettings, load
from services.contracts import events_pb2
from services.store.incoming import UNREADABLE, Incoming, read
from services.store.port import LogRow

BATCH = 64
PIPE_BYTES = 1 << 20  # a whole frame: fewer turns between the two processes
READY = b"ready\n"
_SIZE = struct.Struct("<I")  # of a frame
_HEAD = struct.Struct("<32sBIII")  # of a message: its hash, flags, the lengths of event, candidate and body
_READABLE, _INHERITED = 1, 2
Batches = AsyncIterator[list[Incoming]]


@asynccontextmanager
async def reading(settings: ServiceSettings, run: str, bodies: bool = False) -> AsyncIterator[Batches]:
    """A run's messages in order and numbered from 1, some at a time; the reader is connected as the context begins.

    With `bodies` they come with what lies in the log, which is wanted where it is written to an archive.

    Raises BusLost when the log cannot be read to its end.
    """
    command = [sys.executable, "-m", "services.store.reading", f"asi.v1.{run}.>", *(["bodies"] if bodies else [])]
    environment = {**os.environ, "ASI_NATS_URL": settings.nats_url}
    child = subprocess.Popen(  # noqa: ASYNC220 - a fork, which is short; its pipes are read in threads
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, pipesize=PIPE_BYTES
    )
    assert child.stdin is not None and child.stdout is not None  # noqa: S101, PT018 - pipes were asked for
    try:
        if await asyncio.to_thread(child.stdout.readline) != READY:
            raise BusLost("the log cannot be read: its reader did not connect")
        yield _batches(child.stdin, child.stdout, run)
    finally:
        child.kill()
        await asyncio.to_thread(child.communicate)


async def _batches(orders: IO[bytes], frames: IO[bytes], run: str) -> Batches:
    """Decoded frames; the next one is on its way while one is worked on."""
    orders.write(b"\n")
    orders.flush()
    done = 0
    coming = asyncio.create_task(asyncio.to_thread(_frame, frames))
    try:
        while frame := await coming:
            coming = asyncio.create_task(asyncio.to_thread(_frame, frames))
            batch = list(_unpacked(frame, run, done))
            done += len(batch)
            yield batch
    finally:
        coming.cancel()


def _frame(frames: IO[bytes]) -> bytes:
    head = frames.read(_SIZE.size)
    size = _SIZE.unpack(head)[0] if len(head) == _SIZE.size else None
    frame = frames.read(size) if size is not None else b""
    if len(frame) != size:
        raise BusLost("the log's reader ended before the log did")
    return frame


def _packed(batch: Iterable[Incoming], bodies: bool) -> bytes:
    parts = []
    for one in batch:
        slim, body = one.log.event.SerializeToString(), one.body if bodies else b""
        flags = _READABLE * one.readable | _INHERITED * one.inherited
        head = _HEAD.pack(one.log.sha256, flags, len(slim), len(one.candidate), len(body))
        parts += [head, slim, one.candidate, body]
    body = b"".join(parts)
    return _SIZE.pack(len(body)) + body


def _unpacked(frame: bytes, run: str, done: int) -> Iterable[Incoming]:
    place = 0
    while place < len(frame):
        done += 1
        sha256, flags, slim_size, candidate_size, body_size = _HEAD.unpack_from(frame, place)
        slim_at = place + _HEAD.size
        candidate_at = slim_at + slim_size
        body_at = candidate_at + candidate_size
        place = body_at + body_size
        event = events_pb2.Event.FromString(frame[slim_at:candidate_at])
        readable = bool(flags & _READABLE)
        log = LogRow(done, run, event.candidate, sha256, event, readable, "" if readable else UNREADABLE)
        yield Incoming(log, frame[body_at:place], frame[candidate_at:body_at], readable, bool(flags & _INHERITED))


async def _send(settings: ServiceSettings, subject: str, bodies: bool, write: Callable[[bytes], None]) -> None:
    """The child: the whole log of a subject in frames, after a line has been read."""
    async with Bus(settings, "asi-reading") as bus:
        write(READY)
        sys.stdin.readline()
        batch: list[Incoming] = []
        async for logged in bus.read_log(subject):
            batch.append(read(logged))
            if len(batch) >= BATCH:
                write(_packed(batch, bodies))
                batch = []
        if batch:
            write(_packed(batch, bodies))
        write(_SIZE.pack(0))


def _write(frame: bytes) -> None:
    sys.stdout.buffer.write(frame)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    try:
        run_fast(_send(load(ServiceSettings, "store"), sys.argv[1], "bodies" in sys.argv[2:], _write))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(SETTINGS_EXIT)
    except (BusLost, Transient) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
