"""The engineer's side of one confined child: sending, receiving, its log, its limits, and its end."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from services.sandbox.cgroups import Group
from services.sandbox.limits import (
    FILES,
    JOB_RAISED,
    LOG_BYTES,
    REFUSED,
    ChildDied,
    ChildError,
    ChildTimeout,
    Limits,
    Malformed,
    SandboxUnavailable,
)
from services.sandbox.processes import (
    Usage,
    birth,
    descendants,
    kill,
    kill_descendants,
    processor_seconds,
    usage,
    wait_for_end,
)
from services.sandbox.wire import (
    JSON,
    NO_ARRAYS,
    PREFIX,
    TEXT_CHARACTERS,
    Arrays,
    Bounds,
    Message,
    decode,
    encode,
    printable,
    printable_json,
    read_prefix,
)

_GRACE = 2.0
_PERIOD = 0.05
_START_SECONDS = 30.0
_UNREAD_LOOKS = 20
_DEPTH = 64
_CREDENTIALS = struct.Struct("3i")
_HEADER_CHARACTERS = 1 << 20


class Child:
    """A running job. Made by `Sandbox.child`; leaving that context ends it and everything it started.

    Attributes:
        scratch: the child's private folder, the only place it can write to; it ends with the child. Where the job has
            a file system of its own, its files are not seen here.
    """

    def __init__(
        self,
        channel: socket.socket,
        control: "Control",
        log: "Log",
        limits: Limits,
        scratch: Path,
        shared_bytes: int,
        walked: bool,
        group: Group | None,
    ) -> None:
        """`shared_bytes` is what the fork server shares with it; `walked` says that its files are counted by us."""
        channel.setblocking(False)
        self.scratch = scratch
        self._channel = channel
        self._control = control
        self._log = log
        self._limits = limits
        self._shared_bytes = shared_bytes
        self._walked = walked
        self._group = group
        self._bounds = Bounds(array_bytes=min(limits.memory_bytes, Bounds().array_bytes))
        self._inbox: asyncio.Queue[Message | ChildError] = asyncio.Queue(maxsize=4)
        self._failure: ChildError | None = None
        self._verdict: ChildError | None = None
        self._sending = asyncio.Lock()
        self._unread = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Wait until the keeper lives, then listen and watch; raises SandboxUnavailable."""
        try:
            keeper = await asyncio.wait_for(asyncio.shield(self._control.keeper), _START_SECONDS)
        except TimeoutError as error:
            raise SandboxUnavailable(f"the fork server started no child within {_START_SECONDS:g} s") from error
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._watch(keeper))]

    async def send(self, kind: str, header: Mapping[str, JSON] | None = None, arrays: Arrays = NO_ARRAYS) -> None:
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
        """The next message. Texts in its header are printable (see `wire.printable`), whatever the child sent.

        Raises:
            ChildTimeout: none came within `timeout` seconds (the child lives on), or its wall limit has passed.
            ChildDied: it ended or passed another limit. Malformed: what came is no message.
        """
        if self._failure is not None and self._inbox.empty():
            raise self._failure
        try:
            item = await asyncio.wait_for(self._inbox.get(), timeout)
        except TimeoutError as error:
            raise ChildTimeout(f"the child did not answer within {timeout:.3g} s", self.log_tail()) from error
        if isinstance(item, ChildError):
            self._failure = item
            raise item
        return item

    def log_tail(self) -> str:
        """The end of what the child wrote to stdout and stderr, printable."""
        return self._log.tail()

    def usage(self) -> Usage:
        """What the child and all that it started use now, as the host sees it."""
        keeper = self._control.keeper
        return usage(descendants(keeper.result()) if keeper.done() else [], self._shared_bytes, count_nameless=False)

    def processor_seconds(self) -> float:
        """Processor time so far of what runs now, to the nanosecond."""
        keeper = self._control.keeper
        return processor_seconds(descendants(keeper.result()) if keeper.done() else [])

    async def _listen(self) -> None:
        try:
            while True:
                await self._inbox.put(await self._message())
        except Malformed as error:
            await self._inbox.put(Malformed(error.reason, self.log_tail()))
        except (EOFError, OSError):
            await self._inbox.put(await self._end())
        except (MemoryError, ValueError) as error:  # what decoding has not foreseen is the child's fault as well
            reason = f"a message could not be read: {type(error).__name__}: {printable(str(error), 200)}"
            await self._inbox.put(Malformed(reason, self.log_tail()))

    async def _message(self) -> Message:
        header_bytes, array_bytes = read_prefix(bytes(await self._exactly(PREFIX.size)), self._bounds)
        header = bytes(await self._exactly(header_bytes))
        message = decode(header, await self._exactly(array_bytes), self._bounds)
        facts = cast("dict[str, JSON]", printable_json(message.header, _HEADER_CHARACTERS))
        return Message(printable(message.kind, 200), facts, message.arrays)

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
        """Hold the tree below the keeper to its limits, from outside, where it cannot reach, until it passes one."""
        deadline = time.monotonic() + self._limits.wall_seconds
        while self._verdict is None:
            self._verdict = await self._excess(keeper, deadline)
            if (await asyncio.wait({self._control.ended}, timeout=0 if self._verdict else _PERIOD))[0]:
                # Whatever holds the child's end of the channel, nothing more can come: what came is read, then the end.
                self._channel.shutdown(socket.SHUT_RDWR)
                return
        self._verdict.log_tail = self.log_tail()
        await self._kill(keeper)

    async def _excess(self, keeper: int, deadline: float) -> ChildError | None:
        limits = self._limits
        if time.monotonic() > deadline:
            return ChildTimeout(f"the child ran longer than its limit of {limits.wall_seconds:g} s and was killed")
        if self._log.written > LOG_BYTES:
            return ChildDied(f"the child wrote more than {LOG_BYTES >> 20} MiB to stdout and stderr and was killed")
        try:
            used = usage(descendants(keeper), self._shared_bytes, count_nameless=self._walked)
            reason = _passed(used, limits)
            if reason is None and self._walked:
                reason = await asyncio.to_thread(_written, self.scratch, used.nameless_bytes, limits)
            self._unread = 0
        except (OSError, ValueError, IndexError):  # a process that ends while its entry in /proc is read
            self._unread += 1
            reason = "could not be watched" if self._unread > _UNREAD_LOOKS else None
        return None if reason is None else ChildDied(f"the child {reason} and was killed")

    async def _end(self) -> ChildError:
        """Why there is nothing more to hear. A child that closed the channel but lives on is killed."""
        if self._verdict is None:
            await asyncio.wait({self._control.ended}, timeout=_GRACE)
        if not self._control.ended.done() and self._control.keeper.done():
            await self._kill(self._control.keeper.result())
        return self._verdict or ChildDied(self._reason(), self.log_tail())

    def _reason(self) -> str:
        if self._group is not None and self._group.out_of_memory():
            return f"the child used more memory than its limit of {self._limits.memory_bytes >> 20} MiB and was killed"
        if not self._control.ended.done():
            return "the child closed the channel and was killed"
        try:
            status = self._control.ended.result()
        except SandboxUnavailable as error:
            return str(error)
        return describe(status, self.log_tail())

    async def _kill(self, keeper: int) -> None:
        born = self._control.keeper_born
        await asyncio.to_thread(kill_descendants, lambda: descendants(keeper) if birth(keeper) == born else [])
        await asyncio.wait({self._control.ended}, timeout=_GRACE)
        if birth(keeper) == born:  # its number may be another process's when it ended long ago
            kill(keeper)
            await asyncio.to_thread(wait_for_end, keeper, born)

    async def close(self) -> None:
        """End the child and everything it started, and forget its channel and its group."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._control.keeper.done() and self._control.keeper.exception() is None:
            await self._kill(self._control.keeper.result())
        self._channel.close()
        self._control.close()
        self._log.close()
        if self._group is not None:
            await asyncio.to_thread(self._group.remove)


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
        return f"the child was killed by {_signal_name(-status)}: {last}"
    return f"the child ended with exit status {status} before it answered"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals but the first and the last have no name
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number > signal.SIGRTMIN else f"signal {number}"


def _passed(used: Usage, limits: Limits) -> str | None:
    """What of the limits a process tree has passed."""
    if used.private_bytes > limits.memory_bytes:
        return f"used {used.private_bytes >> 20} MiB of memory, more than its limit of {limits.memory_bytes >> 20} MiB,"
    if used.cpu_seconds > limits.cpu_seconds:
        return f"used {used.cpu_seconds:.1f} s of processor time, more than its limit of {limits.cpu_seconds:g} s,"
    if used.tasks > limits.processes + 1:
        return f"ran {used.tasks} processes and threads, more than its limit of {limits.processes},"
    return None


def _written(scratch: Path, nameless: int, limits: Limits) -> str | None:
    """What of the limits on files has been passed in a scratch folder on disk."""
    try:
        size, files, depth = _footprint(scratch)
    except PermissionError:
        return "made a folder that nobody may enter"
    size += nameless
    if size > limits.file_bytes:
        return f"wrote {size >> 20} MiB to files, more than its limit of {limits.file_bytes >> 20} MiB,"
    if files > FILES:
        return f"made more than {FILES} files"
    if depth > _DEPTH:
        return f"nested folders more than {_DEPTH} deep"
    return None


def _footprint(folder: Path) -> tuple[int, int, int]:
    """Bytes, number and depth of what lies below a folder. Links are not followed, what has gone is not counted.

    Descends by descriptors, so that no path is too long for it, and stops where a limit is passed. Raises
    PermissionError for a folder whose contents it may not see.
    """
    size, files, deepest = 0, 0, 0
    waiting: list[tuple[str, int, int]] = [(str(folder), -1, 0)]  # a folder, the descriptor above it, its depth
    opened: list[int] = []
    try:
        while waiting and files <= FILES and deepest <= _DEPTH:
            name, above, depth = waiting.pop()
            deepest = max(deepest, depth)
            while len(opened) > depth:
                os.close(opened.pop())
            try:
                here = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=None if above < 0 else above)
            except PermissionError:
                raise
            except OSError:  # it has gone
                continue
            opened.append(here)
            with contextlib.suppress(FileNotFoundError), os.scandir(here) as entries:
                for entry in entries:
                    files += 1
                    with contextlib.suppress(FileNotFoundError):
                        size += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append((entry.name, here, depth + 1))
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return size, files, deepest


class Log:
    """What a child writes to stdout and stderr: a pipe of which the end is kept, and the rest counted.

    Attributes:
        written: bytes that came so far.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._kept = bytearray()
        self.written = 0
        self._loop.add_reader(descriptor, self._read)

    def _read(self) -> bool:
        """Take what is there; False when there is no more for now."""
        try:
            text = os.read(self._descriptor, TEXT_CHARACTERS)
        except BlockingIOError:
            return False
        if not text:
            self._loop.remove_reader(self._descriptor)
            return False
        self.written += len(text)
        self._kept = (self._kept + text)[-TEXT_CHARACTERS:]
        return True

    def tail(self) -> str:
        """The last 64 KiB at most of what came, printable. A pipe holds no more, so this ends soon."""
        for _ in range(32):
            if not self._read():
                break
        left_out = self.written - len(self._kept)
        mark = f"[{left_out} bytes before this were left out]\n" if left_out else ""
        return mark + printable(self._kept.decode(errors="replace"))

    def close(self) -> None:
        """Stop reading."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)


class Control:
    """The engineer's end of a keeper's control socket, on which it says that it started and how the job ended.

    The kernel stamps each message with its sender, translated to our view of process ids. The socket closes with the
    keeper, so that a keeper that is lost is noticed at once.

    Attributes:
        keeper: the keeper's process id, once it has started.
        keeper_born: when it did, as `processes.birth` says it.
        ended: the job's exit code (negative: the signal that killed it), or None if the keeper was lost.
    """

    def __init__(self, line: socket.socket) -> None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        line.setblocking(False)
        self._line = line
        self._loop = asyncio.get_running_loop()
        self.keeper_born = ""
        self.keeper: asyncio.Future[int] = self._loop.create_future()
        self.ended: asyncio.Future[int | None] = self._loop.create_future()
        self._loop.add_reader(line.fileno(), self._read)

    def _read(self) -> None:
        try:
            text, ancillary, _, _ = self._line.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
        except BlockingIOError:
            return
        except OSError:
            text, ancillary = b"", []
        if text:
            self._note(json.loads(text), ancillary)
            return
        self._loop.remove_reader(self._line.fileno())
        if not self.keeper.done():
            self.keeper.set_exception(SandboxUnavailable("the fork server ended before it started the child"))
        if not self.ended.done():
            self.ended.set_result(None)

    def _note(self, report: dict[str, str | int], ancillary: list[tuple[int, int, bytes]]) -> None:
        if report["event"] == "started" and not self.keeper.done():
            stamped = [data for _, kind, data in ancillary if kind == socket.SCM_CREDENTIALS]
            pid = int(_CREDENTIALS.unpack(stamped[0])[0])
            self.keeper_born = birth(pid)
            self.keeper.set_result(pid)
        elif report["event"] == "ended" and not self.ended.done():
            self.ended.set_result(int(report["status"]))
        elif report["event"] == "refused" and not self.ended.done():
            self.ended.set_exception(SandboxUnavailable(f"a child could not be confined: {report['reason']}"))

    def close(self) -> None:
        """Stop listening; what nobody asked about is forgotten."""
        self._loop.remove_reader(self._line.fileno())
        self._line.close()
        for future in (self.keeper, self.ended):
            if future.done() and not future.cancelled():
                future.exception()
            future.cancel()
