"""The parts of the sandbox's interface that training and scoring use, so that tests can replace it."""

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
    """The child's end of the connection."""

    def receive(self) -> Message:
        """Wait for the host's next message."""

    def send(self, kind: str, header: Mapping[str, JSON], arrays: Mapping[str, Array] = ...) -> None:
        """Send one message to the host."""


class Child(Protocol):
    """A confined process as the host sees it."""

    async def send(self, kind: str, header: Mapping[str, JSON], arrays: Mapping[str, Array] = ...) -> None:
        """Send one message to the child."""

    async def receive(self, timeout: float) -> Message:  # noqa: ASYNC109 - the caller names what it waits for
        """The child's next message. Raises ChildDied, ChildTimeout or Malformed."""

    def usage(self) -> Usage:
        """Memory and CPU time of the child so far."""


class Sandbox(Protocol):
    """Starts confined children."""

    @property
    def level(self) -> str:
        """The isolation in force."""

    def child(self, job: str, limits: Limits) -> AbstractAsyncContextManager[Child]:
        """A new child that runs the function `job` ("package.module:function") inside the context."""
