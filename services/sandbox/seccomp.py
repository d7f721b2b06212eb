"""A seccomp filter: system calls that numerical programs do not need fail with EPERM.

The filter is a classic BPF program with one comparison and one return for each refused call. The numbers are from
Linux's arch/x86/entry/syscalls/syscall_64.tbl and asm-generic.
"""

import ctypes
import errno
import os
import signal
import struct

from services.sandbox import linux

_NETWORK = (
    "socketpair connect accept sendto sendmsg recvmsg accept4 sendmmsg recvmmsg tkill rt_sigqueueinfo rt_tgsigqueueinfo"
)
# What CUDA calls when it starts, with a socket of this family and kind; where it cannot, it ends with error 304.
_LISTENING = "socket bind listen"
_AF_UNIX, _SOCK_SEQPACKET, _SOCK_KINDS = 1, 5, 0xF
_PROGRAMS = "fork vfork execve execveat flock"
_ALWAYS = (
    "ptrace process_vm_readv process_vm_writev kcmp process_madvise pidfd_send_signal pidfd_open pidfd_getfd "
    "mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr unshare "
    "setns bpf perf_event_open add_key request_key keyctl io_uring_setup io_uring_enter io_uring_register "
    "userfaultfd kexec_load kexec_file_load init_module finit_module delete_module reboot swapon swapoff acct "
    "quotactl sethostname setdomainname settimeofday clock_settime adjtimex clock_adjtime iopl ioperm syslog "
    "personality name_to_handle_at open_by_handle_at fanotify_init modify_ldt vhangup memfd_secret"
)
# Means of communication between jobs that share only readable files.
_BETWEEN_JOBS = (
    "shmget shmat shmctl semget msgget mq_open mq_unlink inotify_init inotify_init1 inotify_add_watch mincore "
    "cachestat fadvise64 readahead preadv2"
)
# Opening and creating files and changing their metadata, for jobs that need no files while they run.
_FILES = (
    "open openat openat2 creat mkdir mkdirat mknod mknodat link linkat symlink symlinkat memfd_create truncate rename "
    "renameat renameat2 chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat "
    "setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat"
)
_FCNTL_COMMANDS = (5, 6, 7, 8, 10, 15, 36, 37, 38, 1024, 1025, 1026)
"""Record locks, open file description locks, leases, notifications, and signals of files."""
_IOCTL_COMMANDS = (0x8901, 0x8902)
"""Owners of a file's signals."""

_SAME_EVERYWHERE = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_open": 434, "clone3": 435, "openat2": 437, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442,
    "memfd_secret": 447, "cachestat": 451, "fchmodat2": 452, "setxattrat": 463, "removexattrat": 466,
}  # fmt: skip
_X86_64 = {
    "ioctl": 16, "socketpair": 53, "truncate": 76, "rename": 82, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93,
    "lchown": 94, "utime": 132, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197,
    "lremovexattr": 198, "fremovexattr": 199, "utimes": 235, "fchownat": 260, "futimesat": 261, "renameat": 264,
    "fchmodat": 268, "utimensat": 280, "renameat2": 316,
    "open": 2, "mkdir": 83, "creat": 85, "link": 86, "symlink": 88, "mknod": 133, "openat": 257, "mkdirat": 258,
    "mknodat": 259, "linkat": 265, "symlinkat": 266,
    "mmap": 9, "mincore": 27, "fcntl": 72, "flock": 73, "readahead": 187, "fadvise64": 221, "mq_unlink": 241,
    "inotify_init": 253, "inotify_add_watch": 254, "inotify_init1": 294, "memfd_create": 319, "preadv2": 327,
    "shmget": 29, "shmat": 30, "shmctl": 31, "socket": 41, "connect": 42, "accept": 43, "sendto": 44, "sendmsg": 46,
    "recvmsg": 47, "bind": 49, "listen": 50, "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "kill": 62,
    "semget": 64, "msgget": 68, "ptrace": 101, "syslog": 103, "rt_sigqueueinfo": 129, "personality": 135,
    "vhangup": 153, "modify_ldt": 154, "pivot_root": 155, "prctl": 157, "adjtimex": 159, "chroot": 161, "acct": 163,
    "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
    "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175, "delete_module": 176,
    "quotactl": 179, "tkill": 200, "clock_settime": 227, "tgkill": 234, "mq_open": 240, "kexec_load": 246,
    "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "accept4": 288, "rt_tgsigqueueinfo": 297,
    "perf_event_open": 298, "recvmmsg": 299, "fanotify_init": 300, "prlimit64": 302, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "clock_adjtime": 305, "sendmmsg": 307, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "execveat": 322,
    "userfaultfd": 323,
}  # fmt: skip
_AARCH64 = {
    "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16,
    "ioctl": 29, "renameat": 38, "truncate": 45, "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55,
    "utimensat": 88, "socketpair": 199, "renameat2": 276,
    "mknodat": 33, "mkdirat": 34, "symlinkat": 36, "linkat": 37, "openat": 56,
    "fcntl": 25, "inotify_init1": 26, "inotify_add_watch": 27, "flock": 32, "mq_unlink": 181, "readahead": 213,
    "mmap": 222, "fadvise64": 223, "mincore": 232, "memfd_create": 279, "preadv2": 286,
    "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "vhangup": 58, "quotactl": 60, "acct": 89,
    "personality": 92, "unshare": 97, "kexec_load": 104, "init_module": 105, "delete_module": 106,
    "clock_settime": 112, "syslog": 116, "ptrace": 117, "kill": 129, "tkill": 130, "tgkill": 131,
    "rt_sigqueueinfo": 138, "reboot": 142, "sethostname": 161, "setdomainname": 162, "prctl": 167,
    "settimeofday": 170, "adjtimex": 171, "mq_open": 180, "msgget": 186, "semget": 190, "shmget": 194, "shmctl": 195,
    "shmat": 196, "socket": 198, "bind": 200, "listen": 201, "accept": 202, "connect": 203, "sendto": 206,
    "sendmsg": 211, "recvmsg": 212, "add_key": 217, "request_key": 218, "keyctl": 219, "clone": 220, "execve": 221,
    "swapon": 224, "swapoff": 225, "rt_tgsigqueueinfo": 240, "perf_event_open": 241, "accept4": 242, "recvmmsg": 243,
    "prlimit64": 261, "fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265, "clock_adjtime": 266,
    "setns": 268, "sendmmsg": 269, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272,
    "finit_module": 273, "bpf": 280, "execveat": 281, "userfaultfd": 282, "kexec_file_load": 294,
}  # fmt: skip
NUMBERS = {"x86_64": _X86_64 | _SAME_EVERYWHERE, "aarch64": _AARCH64 | _SAME_EVERYWHERE}

_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
_CLONE_THREAD, _CLONE_NEW = 0x00010000, 0x7E020000
_SHARED_ANONYMOUS = 0x01 | 0x20
_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

Instruction = tuple[int, int, int, int]


def install(programs: bool, own_network: bool, shared_memory: bool, files: bool = True) -> None:
    """Apply the filter irrevocably to this process and its descendants. Requires NO_NEW_PRIVS. Raises OSError.

    `programs` allows fork, exec, file locks and, for CUDA, a local socket on which nobody can be served; `own_network`
    means that sockets and signals reach only the job itself, so that programs may use both;
    `shared_memory` allows shared anonymous memory, which resource limits do not count; without `files`, no file can be
    opened. Unless `programs` and `own_network` are set, a job can send signals to itself only, and cannot stop itself:
    the host would wait for its answer.
    """
    lines = build(programs, own_network, shared_memory, os.getpid(), files)
    code = b"".join(struct.pack("<HBBI", *line) for line in lines)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
    linux.prctl(linux.PR_SET_SECCOMP, 2, ctypes.addressof(program))


def build(
    programs: bool, own_network: bool, shared_memory: bool, own_pid: int, files: bool = True
) -> list[Instruction]:
    """The filter's instructions: operation, jump if true, jump if false, operand."""
    numbers = NUMBERS[linux.MACHINE]
    refused = [_ALWAYS, _BETWEEN_JOBS]
    refused += [] if programs else [_PROGRAMS]
    refused += [] if files else [_FILES]
    refused += [] if programs and own_network else [_NETWORK]
    refused += [] if programs else [_LISTENING]
    refused += [] if shared_memory else ["memfd_create"]
    no: Instruction = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    lines: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _AUDIT_ARCHITECTURE[linux.MACHINE]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        no,
    ]
    for name in " ".join(refused).split():
        if name in numbers:
            lines += [(_EQUAL, 0, 1, numbers[name]), no]
    lines += [(_EQUAL, 0, 1, numbers["clone3"]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]  # its flags are in memory
    threads = [] if programs else [(_ANY_BIT, 1, 0, _CLONE_THREAD), no]
    lines += _on_argument(numbers["clone"], 0, [(_ANY_BIT, 0, 1, _CLONE_NEW), no, *threads])
    lines += _on_argument(numbers["prctl"], 0, [(_EQUAL, 0, 1, linux.PR_SET_PDEATHSIG), no])
    lines += _on_argument(numbers["prlimit64"], 0, [(_EQUAL, 1, 0, 0), no])
    if programs and not own_network:
        kind = [(_LOAD, 0, 0, _ARGUMENTS + 8), (_AND, 0, 0, _SOCK_KINDS), (_EQUAL, 1, 0, _SOCK_SEQPACKET), no]
        lines += _on_argument(numbers["socket"], 0, [(_EQUAL, 1, 0, _AF_UNIX), no, *kind])
    if not programs:
        for name, commands in (("fcntl", _FCNTL_COMMANDS), ("ioctl", _IOCTL_COMMANDS)):
            body = [line for command in commands for line in ((_EQUAL, 0, 1, command), no)]
            lines += _on_argument(numbers[name], 1, body)
    if not shared_memory:
        both = [(_AND, 0, 0, _SHARED_ANONYMOUS), (_EQUAL, 0, 1, _SHARED_ANONYMOUS), no]
        lines += _on_argument(numbers["mmap"], 3, both)
    if not (programs and own_network):
        stops: list[Instruction] = [(_AT_LEAST, 0, 2, signal.SIGSTOP), (_AT_LEAST, 1, 0, signal.SIGTTOU + 1), no]
        for name, argument in (("kill", 1), ("tgkill", 2)):
            to_itself: list[Instruction] = [(_EQUAL, 1, 0, own_pid), no, (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)]
            lines += _on_argument(numbers[name], 0, [*to_itself, *stops])
    return [*lines, (_RETURN, 0, 0, _ALLOW)]


def _on_argument(number: int, argument: int, body: list[Instruction]) -> list[Instruction]:
    """Test the low half of one argument of one call, which is allowed unless `body` refuses it."""
    inside: list[Instruction] = [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument), *body, (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(inside), number), *inside]
