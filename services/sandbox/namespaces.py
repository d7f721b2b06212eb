"""A job's own processes, network, mounts and names: what it cannot see, it cannot touch."""

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
_APART = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
_NOSUID, _NODEV, _NOEXEC, _BIND, _RECURSIVE, _PRIVATE = 2, 4, 8, 1 << 12, 1 << 14, 1 << 18
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _ATTR_RDONLY, _ATTR_NOSUID = 442, -100, 0x8000, 1, 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
ROOT = "root"
"""Name of the empty folder beside the scratch folders on which a job's root is built."""


def enter() -> None:
    """Leave the host's namespaces; the next fork is the first process of its own pid namespace. Raises OSError.

    Root does it directly, so that mounts can be made of what only root may reach; anybody else through a user
    namespace, in which they stay the user they are.
    """
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        with contextlib.suppress(PermissionError):
            linux.unshare(_APART)
            return
    linux.unshare(_APART | _NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def furnish(scratch: Path, readable: tuple[str, ...], limits: Limits, owner: int) -> None:
    """Build and enter a root that holds `readable`, a few devices and /proc, read-only, and a place to write to.

    That place is a file system in memory at the path of `scratch`, which belongs to `owner`, takes the bytes and files
    that the limits allow, whatever their names, and ends with the job. With `limits.subprocesses` the loopback comes
    up, its files may be executed and there is a /dev/shm. Called in the first process of the pid namespace. Raises
    OSError.
    """
    root, programs = scratch.parent / ROOT, limits.subprocesses
    linux.mount("", "/", "", _RECURSIVE | _PRIVATE)
    linux.mount("tmpfs", str(root), "tmpfs", _NOSUID, "mode=755,size=4m")
    _bind_all(root, readable)
    _devices(root)
    (root / "proc").mkdir()
    with contextlib.suppress(OSError):  # containers that mask parts of /proc refuse a new one; then there is none
        linux.mount("proc", str(root / "proc"), "proc", _NOSUID | _NODEV | _NOEXEC)
    inside = root / scratch.relative_to("/")
    inside.mkdir(parents=True)
    _read_only(root)
    flags = _NOSUID | _NODEV | (0 if programs else _NOEXEC)
    group = os.getegid() if owner == os.geteuid() else owner
    size = f"mode=700,uid={owner},gid={group},nr_inodes={FILES},size={limits.file_bytes}"
    linux.mount("tmpfs", str(inside), "tmpfs", flags, size)
    if programs:
        shared = f"mode=1777,nr_inodes={FILES},size={limits.memory_bytes}"
        linux.mount("tmpfs", str(root / "dev/shm"), "tmpfs", _NOSUID | _NODEV, shared)
        _loopback_up()
    _enter_root(root)


def _bind_all(root: Path, readable: tuple[str, ...]) -> None:
    places = [Path(place) for place in readable]
    for place in places:
        if not any(parent in places for parent in place.parents):
            _bind(root, place)


def _bind(root: Path, place: Path) -> None:
    """Show one file, folder or symbolic link at the same path below `root`."""
    inside = root / place.relative_to("/")
    inside.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():
        inside.symlink_to(place.resolve())
        return
    if place.is_dir():
        inside.mkdir(exist_ok=True)
    else:
        inside.touch()
    linux.mount(str(place), str(inside), "", _BIND | _RECURSIVE)


def _devices(root: Path) -> None:
    (root / "dev/shm").mkdir(parents=True)
    found = linux.graphics()
    for place in (*DEVICES, *found, *(["/sys"] if found else [])):
        _bind(root, Path(place))
    (root / "dev/fd").symlink_to("/proc/self/fd")


def _read_only(place: Path) -> None:
    """mount_setattr(2): neither writing nor set-user-id programs on a mount and those below it."""
    attributes = ctypes.create_string_buffer(struct.pack("<QQQQ", _ATTR_RDONLY | _ATTR_NOSUID, 0, 0, 0), 32)
    linux.syscall("mount_setattr", _MOUNT_SETATTR, _AT_FDCWD, str(place).encode(), _AT_RECURSIVE, attributes, 32)


def _loopback_up() -> None:
    """Switch on the namespace's only interface (SIOCSIFFLAGS with IFF_UP and IFF_RUNNING)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        fcntl.ioctl(line, 0x8914, struct.pack("16sh22x", b"lo", 0x1 | 0x40))


def _enter_root(root: Path) -> None:
    os.chdir(root)
    linux.syscall("pivot_root", _PIVOT_ROOT[linux.MACHINE], b".", b".")
    linux.unmount_lazily(".")
    os.chdir("/")
