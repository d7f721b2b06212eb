"""The sandbox: one fork server, and a confined child for each job."""

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import secrets
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

from services.sandbox.cgroups import Group, Groups
from services.sandbox.child import Child, Log
from services.sandbox.confinement import ALL_LAYERS, FIRST_USER, USERS
from services.sandbox.limits import Limits, SandboxUnavailable
from services.sandbox.namespaces import ROOT
from services.sandbox.server import Control, Server, Settings

PRELOAD_CHECKS = (
    "torch",
    "services.sandbox.wire",
    "services.engineer.checks.screen",
    "services.engineer.checks.child",
)
"""For a sandbox in which programs are only checked; its start takes half the time."""
PRELOAD_COMPILER = ("torch._dynamo", "torch._decomp.decompositions_for_jvp")
"""Parts of torch that some functions import when they are called: every optimiser, a second of each training, and
forward-mode derivatives."""
PRELOAD = (
    *PRELOAD_CHECKS,
    *PRELOAD_COMPILER,
    "services.engineer.training.child",
    "services.engineer.evaluation.child",
)

_PREFIX = "asi-sandbox-"
_LOCK = "lock"
_SETTLED_SECONDS = 60.0


class Sandbox:
    """Runs jobs in confined children. An asynchronous context manager, to be used in one event loop.

    Leaving the context ends the fork server and all children. If the fork server dies, so do its children, and the next
    request starts a new one.
    """

    def __init__(
        self,
        preload: Sequence[str] = PRELOAD,
        readable: Sequence[Path] = (),
        layers: Collection[str] = ALL_LAYERS,
        folder: Path | None = None,
        mps: Path | None = None,
    ) -> None:
        """`preload` are modules that the fork server imports, `readable` additional paths that children may read,
        `layers` the layers to use if available, and `folder` the parent of scratch folders. `mps` is the folder with
        the sockets of NVIDIA's MPS daemon, which children that may start programs can use."""
        paths = tuple(readable) if mps is None else (*readable, mps)
        environment = () if mps is None else (("CUDA_MPS_PIPE_DIRECTORY", str(mps)),)
        self._settings = Settings(tuple(preload), paths, frozenset(layers), environment)
        self._parent = folder
        self._numbers = itertools.count(secrets.randbelow(USERS))  # random, as engineers on one machine share the range
        self._starting = asyncio.Lock()
        self._server: Server | None = None
        self.level = "not started"  # then the layers in force, such as "namespaces+uid+landlock+seccomp+rlimits"

    async def __aenter__(self) -> Self:
        """Start the fork server. Raises SandboxUnavailable."""
        self._folders = await asyncio.to_thread(Folders, self._parent)
        try:
            await self._running()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the fork server and all children, and remove the scratch folders."""
        if self._server is not None:
            await self._server.close()
        await asyncio.to_thread(self._folders.remove)

    def processes(self) -> list[int]:
        """Process ids, in the host's namespace, of running children and their supervisors."""
        return [] if self._server is None else self._server.children()

    @property
    def folder(self) -> Path:
        """The parent of the children's folders on disk."""
        return self._folders.root

    @property
    def server_process(self) -> int:
        """Process id of the fork server, or of the bubblewrap process around it."""
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
        """Run the function `job` ("package.module:function") in a new confined child. Raises SandboxUnavailable."""
        server = await self._running()
        number = next(self._numbers)
        user = FIRST_USER + number % USERS
        scratch = self._folders.scratch(number, user if server.changes_user else None)
        child: Child | None = None
        try:
            group = await _group(server.groups, limits) if server.groups else None
            child = _start(server, job, limits, scratch, user, group)
            await child.open()
            yield child
        finally:
            ending = asyncio.ensure_future(_end(child, scratch))
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                await asyncio.shield(ending)  # a job that is cancelled while it ends leaves nothing either
                raise


async def _group(groups: Groups, limits: Limits) -> Group:
    """A new control group. Raises SandboxUnavailable. A cancellation removes what the thread still makes."""
    making = asyncio.ensure_future(asyncio.to_thread(groups.make, limits))
    try:
        return await asyncio.shield(making)
    except OSError as error:
        raise SandboxUnavailable(f"no control group can be made for a child: {error}") from error
    except asyncio.CancelledError:
        making.add_done_callback(_discard)  # also if this is cancelled again
        await asyncio.wait({making})
        raise


def _discard(making: asyncio.Future[Group]) -> None:
    """Remove a group that nobody uses."""
    if making.exception() is None:
        making.result().close_descriptors()
        making.result().remove()


async def _end(child: Child | None, scratch: Path) -> None:
    if child is not None:
        await child.close()
    await asyncio.to_thread(remove_tree, scratch)


def _start(server: Server, job: str, limits: Limits, scratch: Path, user: int, group: Group | None) -> Child:
    """Request the child. Without one, nothing of it remains, the group neither.

    Raises SandboxUnavailable, and OSError if no more descriptors can be opened.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        if group is not None:
            ours.callback(group.remove)
            theirs.callback(group.close_descriptors)
        channel, child_channel = socket.socketpair()
        ours.callback(channel.close)
        theirs.callback(child_channel.close)
        control_socket, child_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control = Control(control_socket)  # before the request, so that the first message includes its sender
        ours.callback(control.close)
        theirs.callback(child_control.close)
        reader, writer = os.pipe()
        log = Log(reader)
        ours.callback(log.close)
        theirs.callback(os.close, writer)
        request = {"job": job, "limits": asdict(limits), "scratch": str(scratch), "user": user}
        child = Child(channel, control, log, limits, scratch, server, group)
        descriptors = [child_channel.fileno(), child_control.fileno(), writer, *(group.entries if group else ())]
        try:
            server.request(json.dumps(request).encode(), descriptors)
        except OSError as error:
            raise SandboxUnavailable(f"the fork server does not take requests: {error}") from error
        ours.pop_all()
    return child


class Folders:
    """The folders of a sandbox on disk: its root, which other users may traverse but not list, and one per child.

    The root is locked while it is in use, so that later sandboxes can detect folders of killed engineers.
    """

    def __init__(self, parent: Path | None) -> None:
        parent = Path(parent or tempfile.gettempdir()).resolve()
        _sweep(parent)
        self.root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self.root.chmod(0o711)
        self._lock = _lock(self.root)
        (self.root / ROOT).mkdir()

    def scratch(self, number: int, owner: int | None) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=f"{number}-", dir=self.root))
        if owner is not None:
            os.chown(folder, owner, owner)
        return folder

    def remove(self) -> None:
        remove_tree(self.root)
        if self._lock is not None:
            os.close(self._lock)


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; None if it is locked."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sweep(parent: Path) -> None:
    """Remove the folders of killed sandboxes: those of our user that are unlocked and not new."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            status = folder.lstat()
            new = time.time() - status.st_mtime < _SETTLED_SECONDS
            if status.st_uid != os.geteuid() or new or folder.is_symlink():
                continue
            descriptor = _lock(folder)
        except OSError:
            continue
        if descriptor is not None:
            remove_tree(folder)
            os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """Remove a folder and everything below, regardless of depth, path length and modes. Does not raise.

    Subfolders are moved to the top before they are emptied, so that the depth never exceeds two. No process may still
    write to the folder.
    """
    with contextlib.suppress(OSError):
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            _empty(root)
        finally:
            os.close(root)
        folder.rmdir()


def _empty(root: int) -> None:
    prefix, numbers = secrets.token_hex(8), itertools.count()  # names that a job cannot have used
    pending = _clear(root)
    while pending:
        name = pending.pop()
        with contextlib.suppress(OSError):
            os.chmod(name, 0o700, dir_fd=root)
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
            try:
                for subfolder in _clear(folder):
                    moved = f"{prefix}{next(numbers)}"
                    with contextlib.suppress(OSError):
                        os.rename(subfolder, moved, src_dir_fd=folder, dst_dir_fd=root)
                        pending.append(moved)
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=root)


def _clear(folder: int) -> list[str]:
    """Remove the files of a folder and return the names of its subfolders, made accessible."""
    folders = []
    with os.scandir(folder) as entries:
        for entry in list(entries):
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.name, 0o700, dir_fd=folder)
                    folders.append(entry.name)
                else:
                    os.unlink(entry.name, dir_fd=folder)
    return folders
