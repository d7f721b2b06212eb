"""What training and scoring need of the sandbox, on either side of the pipe. The sandbox package provides both."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from services.engineer.sandbox import Limits

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]
Array = NDArray[np.generic]


class Message(Protocol):
    """One message of either direction."""

    @property
    def kind(self) -> str: ...
    @property
    def header(self) -> dict[str, JSON]: ...
    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]: ...


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

    async def receive(self, timeout: float) -> Message:
        """The guest's next message. Raises the sandbox's ChildDied, ChildTimeout or Malformed."""
        ...


class Sandbox(Protocol):
    """Starts confined children from a warm parent."""

    @property
    def level(self) -> str:
        """The isolation in force."""
        ...

    def child(self, job: str, limits: "Limits") -> AbstractAsyncContextManager[Child]:
        """A fresh child that runs our guest function `job` ("package.module:function"); leaving kills it."""
        ...
