"""What a child's keeper tells the engineer: that it started (and who it is), and how the job ended."""

import asyncio
import json
import socket
import struct

from services.sandbox.errors import SandboxUnavailable

_CREDENTIALS = struct.Struct("3i")


class Control:
    """The engineer's end of a keeper's control socket.

    The kernel stamps each message with its sender, translated to our view of process ids.

    Attributes:
        keeper: the keeper's process id, once it has started.
        ended: the job's exit code (negative: the signal that killed it), or None if the keeper was lost.
    """

    def __init__(self, line: socket.socket) -> None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        line.setblocking(False)
        self._line = line
        self._loop = asyncio.get_running_loop()
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
        if not text:
            self._lost()
            return
        self._note(json.loads(text), ancillary)

    def _note(self, told: dict[str, str | int], ancillary: list[tuple[int, int, bytes]]) -> None:
        if told["event"] == "started" and not self.keeper.done():
            stamped = [data for _, kind, data in ancillary if kind == socket.SCM_CREDENTIALS]
            self.keeper.set_result(int(_CREDENTIALS.unpack(stamped[0])[0]))
        elif told["event"] == "ended" and not self.ended.done():
            self.ended.set_result(int(told["status"]))
        elif told["event"] == "refused" and not self.ended.done():
            self.ended.set_exception(SandboxUnavailable(f"a child could not be confined: {told['reason']}"))

    def _lost(self) -> None:
        self._loop.remove_reader(self._line.fileno())
        if not self.keeper.done():
            self.keeper.set_exception(SandboxUnavailable("the fork server ended before it started the child"))
        if not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> None:
        """Stop listening; what nobody asked about is forgotten."""
        self._loop.remove_reader(self._line.fileno())
        self._line.close()
        for future in (self.keeper, self.ended):
            if future.done() and not future.cancelled():
                future.exception()
            future.cancel()
