"""Namespaces of a job: its own processes, network, mounts, IPC and host name."""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

from services.sandbox import linux
from services.sandbox.limits import FILES, Limits

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (1 << bit for bit in (17, 26, 27, 28, 29, 30))
_NAMESPACES = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
_NOSUID, _NODEV, _NOEXEC, _BIND, _RECURSIVE, _PRIVATE = 2, 4, 8, 1 << 12, 1 << 14, 1 << 18
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _ATTR_RDONLY, _ATTR_NOSUID = 442, -100, 0x8000, 1, 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
ROOT = "root"
"""Name of the folder, beside the scratch folders, on which a job's root is mounted."""


def enter() -> None:
    """Enter new namespaces; the next fork is the first process of a new pid namespace. Raises OSError.

    Root does this directly, so that paths that only root can access may be mounted; other users create a user namespace
    in which they keep their user id.
    """
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        with contextlib.suppress(PermissionError):
            linux.unshare(_NAMESPACES)
            return
    linux.unshare(_NAMESPACES | _NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def build_root(scratch: Path, readable: tuple[str, ...], limits: Limits, owner: int) -> None:
    """Build and enter a root with `readable`, a few devices and /proc, all read-only, and a writable scratch folder.

    The scratch folder is a tmpfs at the path of `scratch`, owned by `owner`, with the limits on bytes and files. With
    `limits.subprocesses`, files there may be executed, the loopback is up, there is a /dev/shm, and /proc is writable
    to a user other than root. Must be called in the first process of the pid namespace. Raises OSError.
    """
    root, programs = scratch.parent / ROOT, limits.subprocesses
    linux.mount("", "/", "", _RECURSIVE | _PRIVATE)
    linux.mount("tmpfs", str(root), "tmpfs", _NOSUID, "mode=755,size=4m")
    paths = [Path(path) for path in readable]
    for path in paths:
        if not any(parent in paths for parent in path.parents):
            _bind(root, path)
    (root / "dev/shm").mkdir(parents=True)
    gpus = linux.nvidia_devices()
    for device in (*DEVICES, *gpus, *(["/sys"] if gpus else [])):
        _bind(root, Path(device))
    (root / "dev/fd").symlink_to("/proc/self/fd")
    (root / "proc").mkdir()
    names_threads = programs and owner != 0  # root could change the machine there
    if not names_threads:
        _mount_proc(root)
    inside = root / scratch.relative_to("/")
    inside.mkdir(parents=True)
    # Make all mounts so far read-only and without set-user-id programs.
    attributes = ctypes.create_string_buffer(struct.pack("<QQQQ", _ATTR_RDONLY | _ATTR_NOSUID, 0, 0, 0), 32)
    linux.syscall("mount_setattr", _MOUNT_SETATTR, _AT_FDCWD, str(root).encode(), _AT_RECURSIVE, attributes, 32)
    if names_threads:
        _mount_proc(root)
    flags = _NOSUID | _NODEV | (0 if programs else _NOEXEC)
    group = os.getegid() if owner == os.geteuid() else owner
    size = f"mode=700,uid={owner},gid={group},nr_inodes={FILES},size={limits.file_bytes}"
    linux.mount("tmpfs", str(inside), "tmpfs", flags, size)
    if programs:
        shared = f"mode=1777,nr_inodes={FILES},size={limits.memory_bytes}"
        linux.mount("tmpfs", str(root / "dev/shm"), "tmpfs", _NOSUID | _NODEV, shared)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
            # SIOCSIFFLAGS with IFF_UP and IFF_RUNNING on the loopback interface
            fcntl.ioctl(connection, 0x8914, struct.pack("16sh22x", b"lo", 0x1 | 0x40))
    os.chdir(root)
    linux.syscall("pivot_root", _PIVOT_ROOT[linux.MACHINE], b".", b".")
    linux.unmount_lazily(".")
    os.chdir("/")


def _mount_proc(root: Path) -> None:
    with contextlib.suppress(OSError):  # not permitted in containers that mask parts of /proc
        linux.mount("proc", str(root / "proc"), "proc", _NOSUID | _NODEV | _NOEXEC)


def _bind(root: Path, path: Path) -> None:
    """Mount one file, folder or symbolic link at the same path below `root`."""
    target = root / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        target.symlink_to(path.resolve())
        return
    if path.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    linux.mount(str(path), str(target), "", _BIND | _RECURSIVE)
