"""Holding a child to its limits from outside, where it cannot reach."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from services.sandbox.errors import ChildDied, ChildError, ChildTimeout
from services.sandbox.limits import Limits
from services.sandbox.processes import Usage, descendants, usage

LOG_BYTES = 8 << 20
FILES = 10_000
_PERIOD = 0.05


async def passed_limit(
    keeper: int, limits: Limits, scratch: Path, shared_bytes: int, written: Callable[[], int]
) -> ChildError:
    """Watch the tree below `keeper` until it passes a limit, and say which; the caller kills it."""
    deadline = time.monotonic() + limits.wall_seconds
    while True:
        if time.monotonic() > deadline:
            return ChildTimeout(f"the child ran longer than its limit of {limits.wall_seconds:g} s and was killed")
        used = usage(descendants(keeper), shared_bytes)
        reason = _excess(used, limits) or _excess_written(scratch, used.nameless_bytes, limits, written())
        if reason is not None:
            return ChildDied(f"the child {reason} and was killed")
        await asyncio.sleep(_PERIOD)


def _excess(used: Usage, limits: Limits) -> str | None:
    if used.private_bytes > limits.memory_bytes:
        return f"used {used.private_bytes >> 20} MiB of memory, more than its limit of {limits.memory_bytes >> 20} MiB,"
    if used.cpu_seconds > limits.cpu_seconds:
        return f"used {used.cpu_seconds:.1f} s of processor time, more than its limit of {limits.cpu_seconds:g} s,"
    if used.tasks > limits.processes + 1:
        return f"ran {used.tasks} processes and threads, more than its limit of {limits.processes},"
    return None


def _excess_written(scratch: Path, nameless: int, limits: Limits, logged: int) -> str | None:
    if logged > LOG_BYTES:
        return f"wrote more than {LOG_BYTES >> 20} MiB to stdout and stderr"
    size, files = _footprint(scratch)
    if size + nameless > limits.file_bytes:
        return f"wrote {(size + nameless) >> 20} MiB to files, more than its limit of {limits.file_bytes >> 20} MiB,"
    if files > FILES:
        return f"made more than {FILES} files"
    return None


def _footprint(folder: Path) -> tuple[int, int]:
    """Bytes and number of what lies below `folder`; what goes away meanwhile is not counted, links are not followed."""
    size, files = 0, 0
    for place, folders, names in os.walk(folder):
        files += len(folders) + len(names)
        for name in names:
            try:
                size += (Path(place) / name).lstat().st_blocks * 512
            except OSError:
                continue
        if files > FILES:
            break
    return size, files
