"""Landlock: the kernel's own list of places that a process may still open, in force without any privilege."""

import contextlib
import ctypes
import os
import struct
from pathlib import Path

from services.sandbox import linux
from services.sandbox.bubblewrap import graphics

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_EXECUTE, _WRITE, _READ, _LIST, _TRUNCATE, _IOCTL = 1, 2, 4, 8, 1 << 14, 1 << 15
_MAKE_DEVICES = 1 << 6 | 1 << 11
_FILE_RIGHTS = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_OWN_PROC = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/devices", "/proc/driver",
             "/proc/modules", "/proc/filesystems", "/proc/version")  # fmt: skip


def restrict(scratch: Path, readable: tuple[str, ...], programs: bool, own_proc_only: bool) -> None:
    """Allow this process and its children reading `readable`, writing `scratch` and nothing else, for good.

    `programs` allows executing files; `own_proc_only` is for a /proc that shows the host's processes. From version 4
    of Landlock also no TCP (but for `programs`, whose network is their own), from version 6 no signals and no abstract
    sockets to the outside. Raises OSError where the kernel has no Landlock.
    """
    version = linux.syscall("landlock_create_ruleset", _CREATE, None, 0, 1)
    handled = max(rights for since, rights in _RIGHTS_BY_VERSION.items() if since <= version)
    network = 3 if version >= 4 and not programs else 0
    rules = struct.pack("<QQQ", handled, network, 3 if version >= 6 else 0)
    rules = rules[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = linux.syscall("landlock_create_ruleset", _CREATE, ctypes.create_string_buffer(rules), len(rules), 0)
    execute = _EXECUTE if programs else 0
    proc = _OWN_PROC if own_proc_only else ("/proc",)
    for place in (*readable, *proc, "/sys"):
        _allow(ruleset, place, (_READ | _LIST | execute) & handled)
    for place in (*_DEVICES, *graphics()):
        _allow(ruleset, place, (_READ | _LIST | _WRITE | _IOCTL) & handled)
    writable = handled & ~_MAKE_DEVICES & ~(_EXECUTE & ~execute)
    for place in (str(scratch), *(["/dev/shm"] if programs else [])):  # noqa: S108 -- ours, in our own namespace
        _allow(ruleset, place, writable)
    linux.syscall("landlock_restrict_self", _RESTRICT, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, place: str, rights: int) -> None:
    """Add one rule; a place that is not there needs none."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
        try:
            rights &= ~0 if Path(place).is_dir() else _FILE_RIGHTS
            rule = ctypes.create_string_buffer(struct.pack("<Qi", rights, descriptor))
            linux.syscall("landlock_add_rule", _ADD_RULE, ruleset, 1, rule, 0)
        finally:
            os.close(descriptor)
