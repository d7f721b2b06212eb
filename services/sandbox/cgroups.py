"""A control group for each job, in which the kernel limits all memory that the job causes.

Used if the engineer may create groups: as root, in a container with a writable hierarchy, in a systemd scope, or in a
service with `Delegate=yes` and `DelegateSubgroup=`. Supports versions 2 and 1.
"""

import contextlib
import itertools
import os
import secrets
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from services.sandbox.limits import Limits

_OVERHEAD = 32 << 20
"""Memory of the kernel and of the job's own code, which does not count towards the job's limit."""
_TRIAL_SECONDS = 10
_REMOVAL_SECONDS = 2.0


@dataclass(frozen=True)
class Group:
    """One job's group: its folder in each hierarchy, and open descriptors to which "0" is written to enter it."""

    folders: tuple[Path, ...]
    entries: tuple[int, ...]
    remaining: deque[Path]  # receives the folders that could not be removed yet

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed a process of the group for exceeding its memory limit."""
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError):
                counts = dict(line.split() for line in (self.folders[0] / name).read_text().splitlines())
                return int(counts.get("oom_kill", 0)) > 0
        return False

    def close_descriptors(self) -> None:
        """Close the descriptors after they have been sent."""
        for entry in self.entries:
            os.close(entry)

    def remove(self) -> None:
        """Remove the group, whose processes have been killed; if this takes too long, a later `make` removes it."""
        deadline = time.monotonic() + _REMOVAL_SECONDS
        for folder in self.folders:
            while not _removed(folder):
                if time.monotonic() > deadline:
                    self.remaining.append(folder)
                    break
                time.sleep(0.002)


class Groups:
    """Creates groups below the parents that `find` has tested."""

    def __init__(self, parents: tuple[Path, ...]) -> None:
        self._parents = parents
        # Random, as other sandboxes of this process, or an ended one with its id, may have left groups.
        self._prefix = f"{_prefix()}{os.getpid()}-{secrets.token_hex(6)}"
        self._numbers = itertools.count()
        self._remaining: deque[Path] = deque()

    @classmethod
    def find(cls) -> Self | None:
        """Groups below the nearest of our own groups where a group with a memory limit can be created and entered."""
        hierarchies = _hierarchies()
        for hierarchy in [name for name in ("", "memory") if name in hierarchies]:
            for parent in hierarchies[hierarchy]:
                with contextlib.suppress(OSError):
                    (parent / "cgroup.subtree_control").write_text("+memory +pids")
                # Version 2 has one hierarchy for all controllers.
                pids = hierarchies["pids"][:1] if hierarchy and "pids" in hierarchies else []
                groups = cls((parent, *pids))
                if groups._works():
                    groups._sweep()
                    return groups
        return None

    def make(self, limits: Limits) -> Group:
        """Create a group with the limits. Raises OSError."""
        for _ in range(len(self._remaining)):
            with contextlib.suppress(IndexError):  # another thread makes a group, too, and has taken the last one
                folder = self._remaining.popleft()
                if not _removed(folder):
                    self._remaining.append(folder)
        name = f"{self._prefix}{next(self._numbers)}"
        folders = tuple(parent / name for parent in self._parents)
        group = Group(folders, (), self._remaining)
        memory = str(limits.memory_bytes + limits.file_bytes + _OVERHEAD)  # the scratch folder is in memory, too
        values = {
            "memory.max": memory,
            "memory.swap.max": "0",
            "memory.oom.group": "1",
            "memory.limit_in_bytes": memory,
            "memory.memsw.limit_in_bytes": memory,
            "pids.max": str(limits.processes + 8),
        }
        try:
            for folder in folders:
                folder.mkdir()
                for file, value in values.items():
                    if (folder / file).exists():
                        (folder / file).write_text(value)
            return replace(group, entries=tuple(os.open(folder / "cgroup.procs", os.O_WRONLY) for folder in folders))
        except OSError:
            group.remove()
            raise

    def _sweep(self) -> None:
        """Remove the groups of engineers that no longer run."""
        for parent in self._parents:
            for folder in parent.glob(f"{_prefix()}*-*"):
                if not Path("/proc", folder.name.split("-")[-2]).exists():
                    _removed(folder)

    def _works(self) -> bool:
        try:
            group = self.make(Limits(memory_bytes=64 << 20, cpu_seconds=1, wall_seconds=1))
        except OSError:
            return False
        memory = group.folders[0]
        limited = (memory / "memory.max").exists() or (memory / "memory.limit_in_bytes").exists()
        enter = [str(folder / "cgroup.procs") for folder in group.folders]
        try:
            entered = subprocess.run(
                ["/bin/sh", "-e", "-c", 'for entry; do echo 0 > "$entry"; done', "sh", *enter],
                capture_output=True,
                timeout=_TRIAL_SECONDS,
            )
            return limited and entered.returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False
        finally:
            group.close_descriptors()
            group.remove()


def _prefix() -> str:
    """The prefix of names, with the pid namespace, so that groups of other containers are not swept."""
    try:
        return f"asi-arch-{Path('/proc/self/ns/pid').stat().st_ino}-"
    except OSError:
        return "asi-arch-"


def _removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


def _hierarchies() -> dict[str, list[Path]]:
    """The folders of our own group and those above it, nearest first, by controller ("" for version 2)."""
    own: dict[str, str] = {}
    mounts: dict[str, tuple[str, str]] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own.update(dict.fromkeys(controllers.split(","), path))
        mounts = dict(_mounts())
    return {name: list(_upwards(*mounts[name], path)) for name, path in own.items() if name in mounts}


def _mounts() -> Iterator[tuple[str, tuple[str, str]]]:
    """The mounted group and its mount point, by controller."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split()[:3]
        root, mount_point = before.split()[3:5]
        if kind == "cgroup2":
            yield "", (root, mount_point)
        elif kind == "cgroup":
            yield from ((name, (root, mount_point)) for name in options.split(","))


def _upwards(root: str, mount_point: str, path: str) -> Iterator[Path]:
    inside = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path()
    folder = Path(mount_point) / inside
    while True:
        yield folder
        if folder == Path(mount_point):
            return
        folder = folder.parent
