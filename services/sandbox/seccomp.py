"""A filter on system calls: what a numerical program never needs is refused with EPERM, whoever asks.

Written as classic BPF, the form the kernel takes; each refused call is one comparison and one return.
"""

import ctypes
import errno
import os
import struct

from services.sandbox import linux
from services.sandbox.calls import ALWAYS, ARCHITECTURE, NETWORK, NUMBERS, PROGRAMS

_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_X32 = 0x40000000
_CLONE_THREAD, _CLONE_NEW = 0x00010000, 0x7E020000
_PR_SET_PDEATHSIG = 1

Instruction = tuple[int, int, int, int]


def install(programs: bool, own_network: bool) -> None:
    """Put the filter on this process and all it will start, for good. Needs NO_NEW_PRIVS. Raises OSError.

    `programs` allows fork and exec; `own_network` says that sockets and signals reach nothing but the job itself.
    """
    code = b"".join(struct.pack("<HBBI", *line) for line in build(programs, own_network, os.getpid()))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
    linux.prctl(linux.PR_SET_SECCOMP, 2, ctypes.addressof(program))


def build(programs: bool, own_network: bool, own_pid: int) -> list[Instruction]:
    """The filter's instructions: operation, jump if true, jump if false, operand."""
    numbers, refused = NUMBERS[linux.MACHINE], list(ALWAYS)
    refused += [] if programs else PROGRAMS
    refused += [] if programs and own_network else NETWORK
    lines: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, ARCHITECTURE[linux.MACHINE]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        _refusal(errno.EPERM),
    ]
    for name in refused:
        if name in numbers:
            lines += [(_EQUAL, 0, 1, numbers[name]), _refusal(errno.EPERM)]
    lines += [(_EQUAL, 0, 1, numbers["clone3"]), _refusal(errno.ENOSYS)]  # its flags lie where a filter cannot look
    lines += _on_argument(numbers["clone"], [(_ANY_BIT, 0, 1, _CLONE_NEW), _refusal(errno.EPERM), *_threads(programs)])
    lines += _on_argument(numbers["prctl"], [(_EQUAL, 0, 1, _PR_SET_PDEATHSIG), _refusal(errno.EPERM)])
    lines += _on_argument(numbers["prlimit64"], [(_EQUAL, 1, 0, 0), _refusal(errno.EPERM)])
    if not (programs and own_network):
        for name in ("kill", "tgkill"):
            lines += _on_argument(numbers[name], [(_EQUAL, 1, 0, own_pid), _refusal(errno.EPERM)])
    return [*lines, (_RETURN, 0, 0, _ALLOW)]


def _threads(programs: bool) -> list[Instruction]:
    return [] if programs else [(_ANY_BIT, 1, 0, _CLONE_THREAD), _refusal(errno.EPERM)]


def _on_argument(number: int, body: list[Instruction]) -> list[Instruction]:
    """Look at the low half of the first argument of one call, and allow it if `body` has not refused."""
    inside: list[Instruction] = [(_LOAD, 0, 0, _FIRST_ARGUMENT), *body, (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(inside), number), *inside]


def _refusal(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)
