"""The engineer's side of one confined child: sending, receiving, and its end."""

import asyncio
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from services.sandbox.control import Control
from services.sandbox.errors import ChildDied, ChildError, ChildTimeout, Malformed, SandboxUnavailable
from services.sandbox.keeper import JOB_RAISED, REFUSED
from services.sandbox.limits import Limits
from services.sandbox.log import Log
from services.sandbox.processes import descendants, kill, kill_descendants, wait_for_end
from services.sandbox.watchdog import passed_limit
from services.sandbox.wire import JSON, PREFIX, Arrays, Bounds, Message, decode, encode, read_prefix

_NO_ARRAYS: Mapping[str, NDArray[np.generic]] = MappingProxyType({})
_GRACE = 2.0


class Child:
    """A running job. Made by `Sandbox.child`; leaving that context ends it and everything it started.

    Attributes:
        scratch: the child's private folder, the only place it can write to; removed at the end.
    """

    def __init__(
        self, channel: socket.socket, control: Control, log: Log, limits: Limits, scratch: Path, shared_bytes: int
    ) -> None:
        channel.setblocking(False)
        self.scratch = scratch
        self._channel = channel
        self._control = control
        self._log = log
        self._limits = limits
        self._shared_bytes = shared_bytes
        self._bounds = Bounds(array_bytes=min(limits.memory_bytes, Bounds().array_bytes))
        self._inbox: asyncio.Queue[Message | ChildError] = asyncio.Queue(maxsize=4)
        self._failure: ChildError | None = None
        self._verdict: ChildError | None = None
        self._sending = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Wait until the keeper lives, then listen and watch; raises SandboxUnavailable."""
        keeper = await asyncio.wait_for(asyncio.shield(self._control.keeper), timeout=30)
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._watch(keeper))]

    async def send(self, kind: str, header: Mapping[str, JSON] | None = None, arrays: Arrays = _NO_ARRAYS) -> None:
        """Send one message and return when the kernel has taken it; raises ChildDied or ChildTimeout if it is over."""
        buffers = encode(kind, header or {}, arrays)
        loop = asyncio.get_running_loop()
        try:
            async with self._sending:
                for buffer in buffers:
                    await loop.sock_sendall(self._channel, buffer)
        except OSError as error:
            self._failure = await self._end()
            raise self._failure from error

    async def receive(self, timeout: float) -> Message:  # noqa: ASYNC109 -- the limit is part of the answer's contract
        """The next message.

        Raises:
            ChildTimeout: none came within `timeout` seconds (the child lives on), or its wall limit has passed.
            ChildDied: it ended or passed another limit. Malformed: what came is no message.
        """
        if self._failure is not None and self._inbox.empty():
            raise self._failure
        try:
            item = await asyncio.wait_for(self._inbox.get(), timeout)
        except TimeoutError as error:
            raise ChildTimeout(f"the child did not answer within {timeout:g} s", self.log_tail()) from error
        if isinstance(item, ChildError):
            self._failure = item
            raise item
        return item

    def log_tail(self) -> str:
        """The end of what the child wrote to stdout and stderr."""
        return self._log.tail()

    async def _listen(self) -> None:
        try:
            while True:
                await self._inbox.put(await self._message())
        except Malformed as error:
            await self._inbox.put(Malformed(error.reason, self.log_tail()))
        except (EOFError, OSError):
            await self._inbox.put(await self._end())

    async def _message(self) -> Message:
        header_bytes, array_bytes = read_prefix(bytes(await self._exactly(PREFIX.size)), self._bounds)
        header = bytes(await self._exactly(header_bytes))
        return decode(header, await self._exactly(array_bytes), self._bounds)

    async def _exactly(self, count: int) -> bytearray:
        buffer = bytearray(count)
        view = memoryview(buffer)
        loop = asyncio.get_running_loop()
        while view:
            read = await loop.sock_recv_into(self._channel, view)
            if not read:
                raise EOFError
            view = view[read:]
        return buffer

    async def _watch(self, keeper: int) -> None:
        self._verdict = await passed_limit(
            keeper, self._limits, self.scratch, self._shared_bytes, lambda: self._log.written
        )
        self._verdict.log_tail = self.log_tail()
        await self._kill(keeper)

    async def _end(self) -> ChildError:
        """Why there is nothing more to hear. A child that closed the channel but lives on is killed."""
        if self._verdict is None:
            await asyncio.wait({self._control.ended}, timeout=_GRACE)
        if not self._control.ended.done() and self._control.keeper.done():
            await self._kill(self._control.keeper.result())
        return self._verdict or ChildDied(self._reason(), self.log_tail())

    def _reason(self) -> str:
        if not self._control.ended.done():
            return "the child closed the channel and was killed"
        try:
            status = self._control.ended.result()
        except SandboxUnavailable as error:
            return str(error)
        return describe(status, self.log_tail())

    async def _kill(self, keeper: int) -> None:
        await asyncio.to_thread(kill_descendants, lambda: descendants(keeper))
        await asyncio.wait({self._control.ended}, timeout=_GRACE)
        kill(keeper)
        await asyncio.to_thread(wait_for_end, keeper)

    async def close(self) -> None:
        """End the child and everything it started, and forget its channel."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._control.keeper.done() and self._control.keeper.exception() is None:
            await self._kill(self._control.keeper.result())
        self._channel.close()
        self._control.close()
        self._log.close()


def describe(status: int | None, log_tail: str) -> str:
    """One sentence on how a job ended, from its exit code (negative: a signal)."""
    last = next((line.strip() for line in reversed(log_tail.splitlines()) if line.strip()), "nothing in its log")[:300]
    if status is None:
        return "the child was lost together with the process that kept it"
    if status == JOB_RAISED:
        return f"the child's job raised: {last}"
    if status == REFUSED:
        return f"the child could not be started: {last}"
    if status < 0:
        return f"the child was killed by {signal.Signals(-status).name}: {last}"
    return f"the child ended with exit status {status} before it answered"
