"""Reading and ending process trees through /proc, as the host sees them."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """What a process tree uses at one moment.

    Attributes:
        private_bytes: resident memory that is not backed by files, and the tables that map it; pages shared by a fork
            count in each process.
        cpu_seconds: user and system time, ended and awaited descendants included.
        tasks: processes and threads.
        nameless_bytes: files that have no name any more (deleted, or memfd), whether open or only mapped.
    """

    private_bytes: int
    cpu_seconds: float
    tasks: int
    nameless_bytes: int


def descendants(root: int) -> list[int]:
    """Process ids of all descendants of `root` that still run, parents first; empty if it is gone."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        waiting = [child for parent in waiting for child in children(parent)]
        found += waiting
    return [pid for pid in found if not ended(pid)]


def children(pid: int) -> Iterator[int]:
    """Process ids of the direct children, ended ones that nobody awaited included."""
    for thread in _threads(pid):
        yield from (int(child) for child in _read(pid, f"task/{thread}/children").split())


def _threads(pid: int) -> list[str]:
    try:
        return [thread.name for thread in (_PROC / str(pid) / "task").iterdir()]
    except OSError:
        return []


def _read(pid: int, name: str) -> str:
    """Text of a file of a process, empty if the process is gone."""
    try:
        return (_PROC / str(pid) / name).read_text(errors="replace")
    except OSError:
        return ""


def ended(pid: int) -> bool:
    """Whether a process is gone, or only waits to be awaited."""
    return _read(pid, "stat").rpartition(")")[2].split()[:1] in ([], ["Z"], ["X"])


def birth(pid: int) -> str:
    """When the process with this number began, in ticks since the machine's start; empty if there is none."""
    return "".join(_read(pid, "stat").rpartition(")")[2].split()[19:20])


def usage(pids: list[int], shared_bytes: int, count_nameless: bool) -> Usage:
    """Sum over the processes, less `shared_bytes` of private memory each, which it shares with its parent."""
    private, cpu, tasks, nameless = 0, 0.0, 0, 0
    for pid in pids:
        private += max(0, private_bytes(pid) - shared_bytes)
        seconds, threads = _times(pid)
        cpu += seconds
        tasks += threads
        nameless += _nameless_bytes(pid) if count_nameless else 0
    return Usage(private, cpu, tasks, nameless)


def processor_seconds(pids: list[int]) -> float:
    """Processor time of the threads that run now, as the scheduler counts it: finer than the ticks of `usage`."""
    nanoseconds = 0
    for pid in pids:
        for thread in _threads(pid):
            nanoseconds += int((_read(pid, f"task/{thread}/schedstat").split() or ["0"])[0])
    return nanoseconds / 1e9


def private_bytes(pid: int) -> int:
    """Resident anonymous and shared memory of one process, with its page tables, in bytes; 0 if it is gone."""
    kilobytes = 0
    for line in _read(pid, "status").splitlines():
        if line.startswith(("RssAnon:", "RssShmem:", "VmPTE:")):
            kilobytes += int(line.split()[1])
    return kilobytes << 10


def _times(pid: int) -> tuple[float, int]:
    """Processor seconds and number of threads. The name in the second field may hold spaces and brackets."""
    fields = _read(pid, "stat").rpartition(")")[2].split()
    if len(fields) < 18:
        return 0.0, 0
    return sum(int(field) for field in fields[11:15]) / _TICKS, int(fields[17])


def _nameless_bytes(pid: int) -> int:
    """Bytes of open files without a name; of those that are mapped and closed, which may hold less, the mapped size."""
    sizes: dict[tuple[int, int], int] = {}
    with contextlib.suppress(OSError):
        for link in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                facts = link.stat()
                if facts.st_nlink == 0:
                    sizes[facts.st_dev, facts.st_ino] = facts.st_blocks * 512
    mapped: dict[tuple[int, int], int] = {}
    for line in _read(pid, "maps").splitlines():
        addresses, access, _, device, inode, *path = line.split(maxsplit=5)
        if access[3] == "s" and path and path[0].endswith("(deleted)"):
            first, last = (int(address, 16) for address in addresses.split("-"))
            major, minor = (int(number, 16) for number in device.split(":"))
            key = os.makedev(major, minor), int(inode)
            mapped[key] = mapped.get(key, 0) + last - first
    return sum((mapped | sizes).values())


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal; a process that is gone is no error."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def wait_for_end(pid: int, born: str) -> None:
    """Return once a process that was killed is gone; another one may have its number by then."""
    while not ended(pid) and birth(pid) == born:
        time.sleep(0.001)


def kill_descendants(list_pids: Callable[[], list[int]], seconds: float = 2.0) -> bool:
    """Stop, then kill, what `list_pids` names until it names nothing; False if something is left after `seconds`.

    Stopping first keeps a fork bomb from outrunning the killer.
    """
    deadline = time.monotonic() + seconds
    while pids := list_pids():
        for pid in pids:
            kill(pid, signal.SIGSTOP)
        for pid in set(pids) | set(list_pids()):
            kill(pid)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True
