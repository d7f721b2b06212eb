"""Giving up what a process may do: user, capabilities, resources."""

import contextlib
import ctypes
import os
import resource
import signal
import struct
from pathlib import Path

from services.sandbox import linux
from services.sandbox.bubblewrap import graphics
from services.sandbox.limits import Limits

_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION = 0x20080522
_PR_CAPBSET_DROP = 24
_STACKS = 256 << 20


def become(user: int) -> None:
    """Become an ordinary user without groups. Raises OSError where we may not."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # the change of user has undone it
    linux.prctl(linux.PR_SET_DUMPABLE, 1)  # else its own /proc/self, which CUDA reads, would belong to root


def drop_capabilities() -> None:
    """Hold no capability, now or after an exec. Raises OSError."""
    for capability in range(64):
        with contextlib.suppress(OSError):  # those that the kernel does not know, or that we lack the right to drop
            linux.prctl(_PR_CAPBSET_DROP, capability)
    header = ctypes.create_string_buffer(struct.pack("<Ii", _CAPABILITY_VERSION, 0))
    linux.syscall("capset", _CAPSET[linux.MACHINE], header, ctypes.create_string_buffer(24))


def limit_resources(limits: Limits, counts_processes: bool) -> None:
    """Hard limits of the kernel behind those of the watchdog, a little wider, so that its clearer words come first.

    `counts_processes`: the user is the job's alone, so that the number of its tasks can be limited.
    """
    values = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: 1024 if limits.subprocesses else 256,
        resource.RLIMIT_CPU: int(limits.cpu_seconds) + 2,
    }
    if counts_processes:
        values[resource.RLIMIT_NPROC] = limits.processes + 8
    if not graphics():  # CUDA maps far more than it uses
        values[resource.RLIMIT_DATA] = _mapped_data() + limits.memory_bytes + _STACKS
    for which, value in values.items():
        _, most = resource.getrlimit(which)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(which, (value, value))


def _mapped_data() -> int:
    """Bytes of private writable memory mapped by this process (VmData); without /proc, a generous guess."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) << 10
    return 2 << 30
