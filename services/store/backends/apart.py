"""A log applied by a process of its own: one core reads the log while another projects it.

    async with Apart(url) as archive:
        async for logged in bus.read_log():
            await archive.apply(logged)
    # everything is applied here

For what is rebuilt from the log alone: nothing is decided, no answers are made.
"""

import asyncio
import json
import struct
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from typing import BinaryIO

from services.chassis.bus import Logged
from services.chassis.errors import SettingsError
from services.store.backends import open_archive
from services.store.port import ArchiveUnavailable, OutOfOrder

BATCH = 256
_FRAME = struct.Struct("<QHI")  # sequence, bytes of the subject, bytes of the body
_CHUNK = 256 * 1024
_ERRORS = {kind.__name__: kind for kind in (ArchiveUnavailable, OutOfOrder, SettingsError)}


class Apart:
    """Messages go in, in the order of the log; leaving the context waits until the last is applied.

    `apply` and leaving raise what the archive raised: OutOfOrder, ArchiveUnavailable or SettingsError; RuntimeError
    when the process died.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._process: Process | None = None
        self._waiting = bytearray()

    async def __aenter__(self) -> "Apart":
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, self._url, stdin=PIPE, stdout=PIPE
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._process is not None  # noqa: S101 - entered
        if kind is not None and self._process.returncode is None:
            self._process.kill()
        elif kind is None:
            await self._send()
        outcome = await self._outcome(self._process)
        if kind is None:
            _raise(outcome, self._process.returncode)

    async def apply(self, message: Logged) -> None:
        """Hand over one message; waits while the process is behind."""
        subject = message.subject.encode()
        self._waiting += _FRAME.pack(message.sequence, len(subject), len(message.body)) + subject + message.body
        if len(self._waiting) >= _CHUNK:
            await self._send()

    async def _send(self) -> None:
        assert self._process is not None  # noqa: S101 - entered
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        chunk, self._waiting = self._waiting, bytearray()
        try:
            self._process.stdin.write(chunk)
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            _raise(await self._outcome(self._process), self._process.returncode)

    async def _outcome(self, process: Process) -> bytes:
        """What it says when nothing more comes in."""
        assert process.stdin is not None  # noqa: S101 - a pipe
        process.stdin.close()
        return (await process.communicate())[0]


def _raise(outcome: bytes, code: int | None) -> None:
    """What the process said in the end, if it was an error."""
    said: dict[str, str] = json.loads(outcome) if outcome else {"error": "RuntimeError", "reason": f"it ended ({code})"}
    if error := said.get("error"):
        raise _ERRORS.get(error, RuntimeError)(f"the applying process: {said['reason']}")


def _batch(source: BinaryIO) -> list[Logged]:
    """The next messages; fewer than a batch at the end, none behind it."""
    messages: list[Logged] = []
    while len(messages) < BATCH and (head := source.read(_FRAME.size)):
        sequence, subject, body = _FRAME.unpack(head)
        messages.append(Logged(sequence, source.read(subject).decode(), source.read(body)))
    return messages


async def _apply_all(url: str, source: BinaryIO) -> dict[str, str]:
    archive = open_archive(url)
    try:
        await archive.open()
        ahead = asyncio.create_task(asyncio.to_thread(_batch, source))
        while messages := await ahead:
            ahead = asyncio.create_task(asyncio.to_thread(_batch, source))
            await archive.apply(messages)
    except tuple(_ERRORS.values()) as error:
        return {"error": type(error).__name__, "reason": str(error)}
    finally:
        await archive.close()
    return {}


def main(arguments: Sequence[str]) -> None:
    """The applying process: frames on its standard input, one line of JSON on its standard output."""
    print(json.dumps(asyncio.run(_apply_all(arguments[0], sys.stdin.buffer))))


if __name__ == "__main__":
    main(sys.argv[1:])
