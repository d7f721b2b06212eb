"""A connection to the archive that outlives a laboratory: opened again when the one that answered has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeAlias

import grpc
import grpc.aio

from services.contracts import archive_pb2_grpc

Stub: TypeAlias = "archive_pb2_grpc.ArchiveAsyncStub"
TIMEOUT_SECONDS = 30.0


class ArchiveConnection:
    """Calls of the Archive's API over one connection at a time.

    `opened` opens the archive that is to be asked now; `identity` changes when that is another one than before.
    """

    def __init__(
        self, opened: Callable[[], AbstractAsyncContextManager[Stub]], identity: Callable[[], object] = lambda: None
    ) -> None:
        self._opened, self._identity = opened, identity
        self._stub: Stub | None = None
        self._belongs_to: object = None
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()

    async def stub(self) -> Stub:
        """The archive that answers now. Raises NotFound where there is none."""
        async with self._lock:
            if self._stub is None or self._identity() != self._belongs_to:
                await self._close()
                self._belongs_to = self._identity()
                self._stub = await self._stack.enter_async_context(self._opened())
            return self._stub

    async def ask(self, method: str, request: object, timeout_seconds: float = TIMEOUT_SECONDS) -> Any:
        """One call, tried again over a new connection when the archive is not reachable over the old one.

        Raises AioRpcError.
        """
        stub = await self.stub()
        try:
            return await getattr(stub, method)(request, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        await self.lost(stub)
        return await getattr(await self.stub(), method)(request, timeout=timeout_seconds)

    async def lost(self, stub: Stub) -> None:
        """Forget a connection that does not answer any more, unless a newer one has taken its place."""
        async with self._lock:
            if self._stub is stub:
                await self._close()

    async def close(self) -> None:
        """End the connection, and the reader process behind it where there is one."""
        async with self._lock:
            await self._close()

    async def _close(self) -> None:
        stack, self._stack, self._stub = self._stack, AsyncExitStack(), None
        await stack.aclose()
