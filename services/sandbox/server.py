"""The engineer's handle on the fork server's process."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.sandbox import bubblewrap, linux
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.layers import BUBBLEWRAP, HIDES_PROCESSES, USER, level
from services.sandbox.processes import descendants, kill, kill_descendants, private_bytes
from services.sandbox.surroundings import environment, readable_places

_START_SECONDS = 120.0


@dataclass(frozen=True)
class Settings:
    """What every fork server of one sandbox is started with."""

    preload: tuple[str, ...]
    readable: tuple[Path, ...]
    layers: frozenset[str]


class Server:
    """A running fork server. Made by `Server.start`.

    Attributes:
        level: the layers it found to hold.
        changes_user: each job runs as a user of its own.
        shared_bytes: memory of its own that every child shares with it at first.
    """

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket, layers: frozenset[str]) -> None:
        self._process = process
        self._line = line
        self.level = level(layers)
        self.changes_user = USER in layers
        self._own = descendants(process.pid)  # inside bubblewrap the server itself is one of them
        self.shared_bytes = max(private_bytes(pid) for pid in [process.pid, *self._own])
        if not layers & HIDES_PROCESSES:
            linux.prctl(linux.PR_SET_DUMPABLE, 0)  # a child of our own user could else read our environment in /proc

    @classmethod
    async def start(cls, settings: Settings, root: Path) -> Self:
        """Start a fork server and wait until it is warm; raises SandboxUnavailable with the end of its log.

        Bubblewrap is tried first where it is installed and wanted; where it does not work here, it goes without.
        """
        if BUBBLEWRAP in settings.layers and (program := shutil.which("bwrap")):
            places = readable_places(settings.readable)
            wrap = bubblewrap.command(program, places, root)
            if await asyncio.to_thread(bubblewrap.works, wrap):
                return await cls._start(settings, root, wrap)
        return await cls._start(settings, root, [])

    @classmethod
    async def _start(cls, settings: Settings, root: Path, wrap: list[str]) -> Self:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = root / "forkserver.log"
        with theirs:
            process = _spawn([*wrap, *_command(settings, root, theirs.fileno())], theirs.fileno(), log, root)
        ours.setblocking(False)
        try:
            told = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ours, 1 << 16), _START_SECONDS)
        except (TimeoutError, OSError):
            told = b""
        if not told:
            process.kill()
            process.wait()
            raise SandboxUnavailable(f"the sandbox's fork server does not start: {log.read_text()[-2000:].strip()}")
        layers = frozenset(json.loads(told)["layers"])
        return cls(process, ours, layers | {BUBBLEWRAP} if wrap else layers)

    @property
    def process_id(self) -> int:
        """The process that was started."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def children(self) -> list[int]:
        """What runs below the server."""
        return [pid for pid in descendants(self._process.pid) if pid not in self._own]

    def request(self, text: bytes, descriptors: list[int]) -> None:
        """Ask for one child; raises OSError if the server is gone or does not keep up."""
        socket.send_fds(self._line, [text], descriptors)

    async def close(self) -> None:
        """End the server and whatever is left below it."""
        self._line.close()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        pid = self._process.pid
        kill_descendants(lambda: descendants(pid))
        kill(pid)
        self._process.wait()


def _command(settings: Settings, root: Path, line: int) -> list[str]:
    told = {
        "line": line,
        "preload": settings.preload,
        "layers": sorted(settings.layers - {BUBBLEWRAP}),
        "readable": readable_places(settings.readable),
        "root": str(root),
    }
    return [sys.executable, "-P", "-m", "services.sandbox.forkserver", json.dumps(told)]


def _spawn(command: list[str], line: int, log: Path, root: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        os.set_inheritable(line, True)
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(root),
            cwd="/",
            pass_fds=[line],
            start_new_session=True,
        )
