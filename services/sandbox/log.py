"""What a child writes to stdout and stderr: a pipe of which the engineer keeps the end, and counts the rest."""

import asyncio
import os

_KEPT = 64 << 10
_READ = 64 << 10


class Log:
    """The tail of a child's output.

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
            text = os.read(self._descriptor, _READ)
        except BlockingIOError:
            return False
        if not text:
            self._loop.remove_reader(self._descriptor)
            return False
        self.written += len(text)
        self._kept = (self._kept + text)[-_KEPT:]
        return True

    def tail(self) -> str:
        """The last 64 KiB at most of what came, undecodable bytes replaced. A pipe holds no more, so this ends soon."""
        for _ in range(32):
            if not self._read():
                break
        return self._kept.decode(errors="replace")

    def close(self) -> None:
        """Stop reading."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
