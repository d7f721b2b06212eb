"""The guest's end of the channel: synchronous, and nothing but read and write on one file descriptor."""

import os
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from services.sandbox.wire import JSON, PREFIX, Arrays, Bounds, Message, decode, encode, read_prefix

_NO_ARRAYS: Mapping[str, NDArray[np.generic]] = MappingProxyType({})


class ChannelClosed(Exception):  # noqa: N818 -- the word is the fact
    """The engineer closed its end: there is nobody to work for."""


class Channel:
    """Receives requests of the engineer and sends answers. Not for several threads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, kind: str, header: Mapping[str, JSON] | None = None, arrays: Arrays = _NO_ARRAYS) -> None:
        """Send one message; raises ValueError or TypeError for what does not travel (see `wire.encode`)."""
        for buffer in encode(kind, header or {}, arrays):
            rest = buffer
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def receive(self) -> Message:
        """Wait for the next message; raises ChannelClosed when the engineer has hung up."""
        bounds = Bounds()
        header_bytes, array_bytes = read_prefix(bytes(self._exactly(PREFIX.size)), bounds)
        header = bytes(self._exactly(header_bytes))
        return decode(header, self._exactly(array_bytes), bounds)

    def _exactly(self, count: int) -> bytearray:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while view:
            read = os.readv(self._descriptor, [view])
            if not read:
                raise ChannelClosed
            view = view[read:]
        return buffer
