"""What training and scoring need of the sandbox, on either side of the pipe. The sandbox package provides both."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.sandbox.limits import Limits
from services.sandbox.processes import Usage
from services.sandbox.wire import JSON, Message

__all__ = ["JSON", "Array", "Channel", "Child", "Message", "Sandbox"]

Array = NDArray[np.generic]


class Channel(Protocol):
    """The guest's end: synchronous, one host at the other end."""

    def receive(self) -> Message:
        """Wait for the host's next message."""
        ...

    def send(self, kind: str, header: Mapping[str, JSON], arrays: Mapping[str, Array] = ...) -> None:
        """Answer the host."""
        ...


class Child(Protocol):
    """The host's end of one confined process."""

    async def send(self, kind: str, header: Mapping[str, JSON], arrays: Mapping[str, Array] = ...) -> None:
        """Write one message to the guest."""
        ...

    async def receive(self, timeout: float) -> Message:  # noqa: ASYNC109 - the caller names what it waits for
        """The guest's next message. Raises the sandbox's ChildDied, ChildTimeout or Malformed."""
        ...

    def usage(self) -> Usage:
        """Memory and processor time of the guest so far, as the host sees them."""
        ...


class Sandbox(Protocol):
    """Starts confined children from a warm parent."""

    @property
    def level(self) -> str:
        """The isolation in force."""
        ...

    def child(self, job: str, limits: Limits) -> AbstractAsyncContextManager[Child]:
        """A fresh child that runs our guest function `job` ("package.module:function"); leaving kills it."""
        ...
