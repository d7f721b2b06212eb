"""Resource usage and termination of process trees, through /proc."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """The current resource usage of a process tree."""

    private_bytes: int  # resident without files, and page tables; what a fork shares counts in each process
    cpu_seconds: float  # user and system time, including reaped descendants
    tasks: int  # processes and threads
    unlinked_bytes: int  # of unlinked files (deleted, or memfd) that are open or mapped


def descendants(root: int) -> list[int]:
    """Process ids of all running descendants of `root`, parents first."""
    pids: list[int] = []
    generation = [root]
    while generation:
        generation = [child for parent in generation for child in children(parent)]
        pids += generation
    return [pid for pid in pids if not ended(pid)]


def children(pid: int) -> Iterator[int]:
    """Process ids of the direct children, including zombies."""
    for thread in _threads(pid):
        yield from (int(child) for child in _read(pid, f"task/{thread}/children").split())


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - a Path takes three times longer, and this is done often
    except OSError:
        return []


def _read(pid: int, name: str) -> str:
    """Text of a file of a process, empty if the process has ended."""
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:  # noqa: PTH123 - as above
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def ended(pid: int) -> bool:
    """Whether a process has ended; it may be a zombie."""
    return _read(pid, "stat").rpartition(")")[2].split()[:1] in ([], ["Z"], ["X"])


def start_time(pid: int) -> str:
    """The start time of a process in ticks since boot; empty if it has ended."""
    return "".join(_read(pid, "stat").rpartition(")")[2].split()[19:20])


def usage(pids: list[int], shared_bytes: int, count_unlinked: bool) -> Usage:
    """The total usage of processes, without `shared_bytes` of memory that each shares with the fork server."""
    private, cpu, tasks, unlinked = 0, 0.0, 0, 0
    for pid in pids:
        private += max(0, private_bytes(pid) - shared_bytes)
        # The process's name, before the last bracket, may contain spaces and brackets itself.
        fields = _read(pid, "stat").rpartition(")")[2].split()
        if len(fields) >= 18:
            cpu += sum(int(field) for field in fields[11:15]) / _TICKS
            tasks += int(fields[17])
        unlinked += _unlinked_bytes(pid) if count_unlinked else 0
    return Usage(private, cpu, tasks, unlinked)


def processor_seconds(pids: list[int]) -> float:
    """CPU time of the running threads from the scheduler, in a finer resolution than `usage`."""
    texts = (_read(pid, f"task/{thread}/schedstat") for pid in pids for thread in _threads(pid))
    return sum(int((text.split() or ["0"])[0]) for text in texts) / 1e9


def waited_seconds(pids: list[int]) -> float:
    """The longest time that one of the running threads was ready and had no processor; 0 if the kernel omits it."""
    texts = [_read(pid, f"task/{thread}/schedstat") for pid in pids for thread in _threads(pid)]
    return max((int(text.split()[1]) for text in texts if text), default=0) / 1e9


def private_bytes(pid: int) -> int:
    """Resident anonymous and shared memory of one process, with its page tables, in bytes; 0 if it has ended."""
    counted = ("RssAnon:", "RssShmem:", "VmPTE:")
    lines = _read(pid, "status").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(counted)) << 10


def _unlinked_bytes(pid: int) -> int:
    """Bytes of open unlinked files; for those that are only mapped, the mapped size."""
    sizes: dict[tuple[int, int], int] = {}
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                status = link.stat()
                if status.st_nlink == 0:
                    sizes[status.st_dev, status.st_ino] = status.st_blocks * 512
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
    """Send a signal to a process, if it still exists."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_for_end(pid: int, started: str) -> None:
    """Wait until a killed process has ended; its pid may be reused."""
    while not ended(pid) and start_time(pid) == started:
        time.sleep(0.001)


def kill_descendants(list_pids: Callable[[], list[int]]) -> None:
    """Stop, then kill the processes of `list_pids` until there are none, or for two seconds.

    Processes are stopped first, so that a fork bomb cannot create new ones meanwhile.
    """
    deadline = time.monotonic() + 2.0
    while (pids := list_pids()) and time.monotonic() < deadline:
        for pid in pids:
            kill(pid, signal.SIGSTOP)
        for pid in set(pids) | set(list_pids()):
            kill(pid)
        time.sleep(0.001)
