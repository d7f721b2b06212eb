"""The host's side of one confined child: messages, log, limits and termination."""

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from services.sandbox import processes, wire
from services.sandbox.cgroups import Group
from services.sandbox.limits import (
    LOG_BYTES,
    ChildDied,
    ChildError,
    ChildTimeout,
    Limits,
    Malformed,
    SandboxLost,
    SandboxUnavailable,
    ending,
    exceeded,
    exceeded_files,
)
from services.sandbox.server import Control, Server
from services.sandbox.wire import JSON, NO_ARRAYS, TEXT_CHARACTERS, Arrays, Bounds, Message, escaped, escaped_json

_GRACE = 2.0
_PERIOD = 0.05
_PERIOD_IN_GROUP = 0.2
"""Seconds between two looks at a child whose memory and tasks the kernel limits, too: each costs half a millisecond."""
_START_SECONDS = 30.0
_STARVED_SECONDS = 5.0
"""Shorter waits for a processor happen on any machine, and limits leave room for them."""
_MAX_READ_FAILURES = 20
_HEADER_CHARACTERS = 1 << 20


@dataclass(eq=False)
class Child:
    """A running job, created by `Sandbox.child`, whose context ends it and all its processes."""

    channel: socket.socket
    control: Control
    log: "Log"
    limits: Limits
    scratch: Path  # the only folder that the child can write to, visible here unless it has a file system of its own
    server: Server
    group: Group | None

    def __post_init__(self) -> None:
        """Nothing is received before `open`."""
        self.channel.setblocking(False)
        self._bounds = Bounds(array_bytes=min(self.limits.memory_bytes, Bounds().array_bytes))
        self._inbox: asyncio.Queue[Message | ChildError | SandboxUnavailable] = asyncio.Queue(maxsize=4)
        self._failure: ChildError | SandboxUnavailable | None = None
        self._verdict: ChildError | SandboxUnavailable | None = None
        self._sending = asyncio.Lock()
        self._read_failures = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Wait for the supervisor, then start to receive messages and enforce limits. Raises SandboxUnavailable."""
        try:
            supervisor = await asyncio.wait_for(asyncio.shield(self.control.supervisor), _START_SECONDS)
        except TimeoutError as error:
            raise SandboxUnavailable(f"the fork server started no child within {_START_SECONDS:g} s") from error
        self._started = time.monotonic()
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._watch(supervisor))]

    async def send(self, kind: str, header: Mapping[str, JSON] | None = None, arrays: Arrays = NO_ARRAYS) -> None:
        """Send one message. Raises ChildDied, ChildTimeout or SandboxUnavailable if the child has ended."""
        buffers = wire.encode(kind, header or {}, arrays)
        loop = asyncio.get_running_loop()
        try:
            async with self._sending:
                for buffer in buffers:
                    await loop.sock_sendall(self.channel, buffer)
        except OSError as error:
            self._failure = await self._end()
            raise self._failure from error

    async def receive(self, timeout: float) -> Message:  # noqa: ASYNC109 -- the limit is part of the answer's contract
        """The next message, in which all texts of the header are made printable (see `wire.escaped`).

        Raises:
            ChildTimeout: no message within `timeout` seconds, or its wall-clock limit was reached.
            ChildDied: it ended or exceeded another limit.
            Malformed: the received bytes are not a message.
            SandboxUnavailable: it could not be confined, the fork server ended, or see `fault`.
        """
        if self._failure is not None and self._inbox.empty():
            raise self._failure
        try:
            item = await asyncio.wait_for(self._inbox.get(), timeout)
        except TimeoutError as error:
            raise ChildTimeout(f"the child did not answer within {timeout:.3g} s", self.log_tail()) from error
        if not isinstance(item, Message):
            self._failure = item
            raise item
        return item

    def log_tail(self) -> str:
        """The end of the child's stdout and stderr, printable."""
        return self.log.tail()

    def fault(self, late: ChildTimeout) -> ChildTimeout | SandboxUnavailable:
        """Whose fault the delay is: the machine's if a thread waited for a processor for a quarter of the child's life,
        beyond what the child used itself, for which its own threads may have waited.
        """
        waited, lived = processes.waited_seconds(self.processes()), time.monotonic() - self._started
        if waited - self.usage().cpu_seconds < max(_STARVED_SECONDS, lived / 4):  # with that of threads that ended
            return late
        return SandboxUnavailable(
            f"{late.reason}; it waited {waited:.1f} s for a processor: this machine is overloaded, stop other work on "
            "it or run fewer trainings at once"
        )

    def usage(self) -> processes.Usage:
        return processes.usage(self.processes(), self.server.shared_bytes, count_unlinked=False)

    def processor_seconds(self) -> float:
        """CPU time of the running processes, in nanosecond resolution."""
        return processes.processor_seconds(self.processes())

    def processes(self) -> list[int]:
        supervisor = self.control.supervisor
        return processes.descendants(supervisor.result()) if supervisor.done() else []

    async def _listen(self) -> None:
        try:
            while True:
                await self._inbox.put(await self._message())
        except Malformed as error:
            await self._inbox.put(Malformed(error.reason, self.log_tail()))
        except (EOFError, OSError):
            await self._inbox.put(await self._end())
        except (MemoryError, ValueError) as error:  # other errors of decoding are caused by the child as well
            reason = f"a message could not be read: {type(error).__name__}: {escaped(str(error), 200)}"
            await self._inbox.put(Malformed(reason, self.log_tail()))

    async def _message(self) -> Message:
        header_bytes, array_bytes = wire.read_prefix(bytes(await self._exactly(wire.PREFIX.size)), self._bounds)
        header = bytes(await self._exactly(header_bytes))
        message = wire.decode(header, await self._exactly(array_bytes), self._bounds)
        header_values = cast("dict[str, JSON]", escaped_json(message.header, _HEADER_CHARACTERS))
        return Message(escaped(message.kind, 200), header_values, message.arrays)

    async def _exactly(self, count: int) -> bytearray:
        buffer = bytearray(count)
        view = memoryview(buffer)
        loop = asyncio.get_running_loop()
        while view:
            read = await loop.sock_recv_into(self.channel, view)
            if not read:
                raise EOFError
            view = view[read:]
        return buffer

    async def _watch(self, supervisor: int) -> None:
        """Enforce the limits on the processes below the supervisor, from outside, until one is exceeded."""
        deadline = time.monotonic() + self.limits.wall_seconds
        period = _PERIOD if self.group is None else _PERIOD_IN_GROUP
        while self._verdict is None:
            self._verdict = await self._excess(supervisor, deadline)
            ended, _ = await asyncio.wait({self.control.ended}, timeout=0 if self._verdict else period)
            if ended:
                # Other processes may still hold the child's end of the channel; pending messages remain readable.
                self.channel.shutdown(socket.SHUT_RDWR)
                return
        if isinstance(self._verdict, ChildError):
            self._verdict.log_tail = self.log_tail()
        await self._kill(supervisor)

    async def _excess(self, supervisor: int, deadline: float) -> ChildError | SandboxUnavailable | None:
        limits = self.limits
        if time.monotonic() > deadline:
            limit = f"its limit of {limits.wall_seconds:g} s"
            return self.fault(ChildTimeout(f"the child ran longer than {limit} and was killed"))
        if self.log.written > LOG_BYTES:
            return ChildDied(f"the child wrote more than {LOG_BYTES >> 20} MiB to stdout and stderr and was killed")
        try:
            on_disk = not self.server.own_files
            used = processes.usage(processes.descendants(supervisor), self.server.shared_bytes, count_unlinked=on_disk)
            reason = exceeded(used, limits)
            if reason is None and on_disk:
                reason = await asyncio.to_thread(exceeded_files, self.scratch, used.unlinked_bytes, limits)
            self._read_failures = 0
        except (OSError, ValueError, IndexError):  # a process that ends while its entry in /proc is read
            self._read_failures += 1
            reason = "could not be watched" if self._read_failures > _MAX_READ_FAILURES else None
        return None if reason is None else ChildDied(f"the child {reason} and was killed")

    async def _end(self) -> ChildError | SandboxUnavailable:
        """The reason why the channel is closed. A child that closed it but continues to run is killed."""
        if self._verdict is None:
            await asyncio.wait({self.control.ended}, timeout=_GRACE)
        ended = self.control.ended.done()
        if not ended and self.control.supervisor.done():
            await self._kill(self.control.supervisor.result())
        if self._verdict is not None:
            return self._verdict
        if self.group is not None and self.group.out_of_memory():
            limit = f"{self.limits.memory_bytes >> 20} MiB"
            return ChildDied(f"the child used more memory than its limit of {limit} and was killed", self.log_tail())
        if not ended:
            return ChildDied("the child closed the channel and was killed", self.log_tail())
        try:
            status = self.control.ended.result()
        except SandboxUnavailable as error:
            return error
        if status is None and not self.server.can_be_killed:
            return SandboxLost("the fork server ended, or a supervisor was killed")
        return ChildDied(ending(status, self.log_tail()), self.log_tail())

    async def _kill(self, supervisor: int) -> None:
        started, deadline = self.control.supervisor_started, time.monotonic() + _GRACE
        ended = False
        while not ended and time.monotonic() < deadline:  # again, as it may fork the job only now
            await asyncio.to_thread(
                processes.kill_descendants,
                lambda: processes.descendants(supervisor) if processes.start_time(supervisor) == started else [],
            )
            done, _ = await asyncio.wait({self.control.ended}, timeout=_PERIOD)
            ended = bool(done)
        if processes.start_time(supervisor) == started:  # else its pid may have been reused
            processes.kill(supervisor)
            await asyncio.to_thread(processes.wait_for_end, supervisor, started)

    async def close(self) -> None:
        """End all processes of the child, and close its channel and group."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.control.require_start()
        if self.control.supervisor.done() and self.control.supervisor.exception() is None:
            await self._kill(self.control.supervisor.result())
        self.channel.close()
        self.control.close()
        self.log.close()
        if self.group is not None:
            await asyncio.to_thread(self.group.remove)


class Log:
    """A child's stdout and stderr: a pipe of which the `written` bytes are counted and only the last ones stored."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self.written = 0
        self._loop.add_reader(descriptor, self._read)

    def _read(self) -> bool:
        """Read available bytes; False if there are none."""
        try:
            text = os.read(self._descriptor, TEXT_CHARACTERS)
        except BlockingIOError:
            return False
        if not text:
            self._loop.remove_reader(self._descriptor)
            return False
        self.written += len(text)
        self._buffer = (self._buffer + text)[-TEXT_CHARACTERS:]
        return True

    def tail(self) -> str:
        """At most the last 64 KiB, printable."""
        for _ in range(32):
            if not self._read():
                break
        left_out = self.written - len(self._buffer)
        mark = f"[{left_out} bytes before this were left out]\n" if left_out else ""
        return mark + escaped(self._buffer.decode(errors="replace"))

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
