"""The sandbox: one warm fork server, and a confined child of it for each job."""

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import shutil
import socket
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from services.sandbox.child import Child
from services.sandbox.control import Control
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.folders import Folders
from services.sandbox.layers import ALL_LAYERS, FIRST_USER, USERS
from services.sandbox.limits import Limits
from services.sandbox.log import Log
from services.sandbox.server import Server, Settings

PRELOAD = (
    "torch",
    "torch._dynamo",  # every optimiser imports it: a second of each training
    "services.sandbox.channel",
    "services.sandbox.integrity",
    "services.engineer.checks.guest",
    "services.engineer.training.guest",
    "services.engineer.evaluation.guest",
)


class Sandbox:
    """Runs jobs in confined children. An asynchronous context manager; use it in one event loop.

    Leaving the context ends the fork server and every child. A fork server that dies is started again by the next
    request; the children it had die with it.

    Attributes:
        level: the layers in force, for example "namespaces+uid+landlock+seccomp+rlimits"; known once entered.
    """

    def __init__(
        self,
        preload: Sequence[str] = PRELOAD,
        readable: Sequence[Path] = (),
        layers: Collection[str] = ALL_LAYERS,
        folder: Path | None = None,
    ) -> None:
        """`preload` are modules the fork server imports; `readable` are places beyond the usual that a child may read;
        `layers` are those to use where the machine has them; `folder` is where scratch folders are made."""
        self._settings = Settings(tuple(preload), tuple(readable), frozenset(layers))
        self._parent = folder
        self._numbers = itertools.count(secrets.randbelow(USERS))  # engineers on one machine seldom share users
        self._starting = asyncio.Lock()
        self._server: Server | None = None
        self.level = "not started"

    async def __aenter__(self) -> Self:
        """Start the fork server; raises SandboxUnavailable with the end of its log."""
        self._folders = await asyncio.to_thread(Folders, self._parent)
        try:
            await self._running()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End everything and remove what is left of the scratch folders."""
        if self._server is not None:
            await self._server.close()
        await asyncio.to_thread(self._folders.remove)

    def processes(self) -> list[int]:
        """Process ids of the children now running and of what keeps them, as the host sees them."""
        return [] if self._server is None else self._server.children()

    @property
    def server_process(self) -> int:
        """Process id of the fork server (of bubblewrap, where that holds it)."""
        if self._server is None:
            raise SandboxUnavailable("the sandbox has not been entered")
        return self._server.process_id

    async def _running(self) -> Server:
        async with self._starting:
            if self._server is None or not self._server.alive():
                if self._server is not None:
                    await self._server.close()
                self._server = await Server.start(self._settings, self._folders.root)
                self.level = self._server.level
            return self._server

    @contextlib.asynccontextmanager
    async def child(self, job: str, limits: Limits) -> AsyncIterator[Child]:
        """Run our guest function `job` ("package.module:function") in a new confined child while the context lasts.

        Raises SandboxUnavailable if no child can be started.
        """
        server = await self._running()
        number = next(self._numbers)
        user = FIRST_USER + number % USERS
        scratch = self._folders.scratch(number, user if server.changes_user else None)
        child: Child | None = None
        try:
            child = _start(server, job, limits, scratch, user)
            await child.open()
            yield child
        finally:
            if child is not None:
                await asyncio.shield(child.close())
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)


def _start(server: Server, job: str, limits: Limits, scratch: Path, user: int) -> Child:
    ours, theirs = socket.socketpair()
    control, its_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    listening = Control(control)  # before the request, so that the first message carries its sender
    request = {"job": job, "limits": json.dumps(limits.as_json()), "scratch": str(scratch), "user": str(user)}
    child = Child(ours, listening, Log(reader), limits, scratch, server.shared_bytes)
    try:
        server.request(json.dumps(request).encode(), [theirs.fileno(), its_control.fileno(), writer])
    except OSError as error:
        listening.close()
        raise SandboxUnavailable(f"the fork server does not take requests: {error}") from error
    finally:
        theirs.close()
        its_control.close()
        os.close(writer)
    return child
