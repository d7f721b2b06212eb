"""System calls of Linux that Python does not wrap, on x86-64 and arm64."""

import ctypes
import os
import platform
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
PR_SET_CHILD_SUBREAPER = 36
PR_SET_SECCOMP = 22

_LIBC = ctypes.CDLL(None, use_errno=True)
MACHINE = platform.machine()


_WSL_DRIVER, _WSL_DEVICE = Path("/usr/lib/wsl/lib/libcuda.so.1"), Path("/dev/dxg")


def nvidia_devices() -> list[str]:
    """The device files of NVIDIA's driver. Under WSL 2 this is one that other graphics drivers have, too."""
    wsl = [_WSL_DEVICE] if _WSL_DEVICE.exists() and _WSL_DRIVER.exists() else []
    return sorted(str(path) for path in (*Path("/dev").glob("nvidia*"), *wsl))


def check(result: int, what: str) -> int:
    """The result of a call. Raises OSError with the name of the call."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(what: str, number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """A system call by number, with integers as 64 bits. Raises OSError."""
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return check(int(_LIBC.syscall(ctypes.c_long(number), *wide)), what)


def prctl(option: int, *arguments: int) -> None:
    """prctl(2). Raises OSError."""
    values = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    check(int(_LIBC.prctl(ctypes.c_int(option), *values)), f"prctl {option}")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2). Raises OSError with the target."""
    result = _LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    check(int(result), f"mount {kind or source} on {target}")


def unmount_lazily(target: str) -> None:
    """umount2(2) with MNT_DETACH. Raises OSError."""
    check(int(_LIBC.umount2(target.encode(), 2)), f"umount {target}")


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    check(int(_LIBC.unshare(ctypes.c_int(flags))), f"unshare {flags:#x}")
