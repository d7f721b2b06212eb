"""Exceptions of handlers, calls and settings. The worker loop makes a dead letter of those that it does not expect."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # commands start faster without
    from services.contracts import candidate_pb2


class SettingsError(Exception):
    """A setting is unknown or invalid. The message is one sentence to print before exiting."""


class Transient(Exception):  # noqa: N818 - a condition to wait out, not an error of ours
    """A dependency is unavailable. A message is redelivered after `delay` seconds, by default with back-off."""

    def __init__(self, reason: str, delay: float | None = None) -> None:
        super().__init__(reason)
        self.delay = delay


class NotYet(Transient):
    """A dependency of the candidate, such as a baseline, is not finished: the message is redelivered soon."""


class Rejected(Exception):  # noqa: N818 - an outcome
    """The candidate ends here: candidate.rejected is published with `reason`, and the message acknowledged.

    `evidence` holds numbers and positions, never prose about scores; `overhead` what its failed trainings took.
    """

    overhead: candidate_pb2.Overhead | None = None

    def __init__(self, stage: str, reason: str, evidence: Mapping[str, object] | None = None) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason
        self.evidence = dict(evidence or {})


class HandedBack(Exception):  # noqa: N818 - not an error
    """The work was checkpointed because the service is stopping: its message is redelivered to another replica."""


class Superseded(Exception):  # noqa: N818
    """Another worker claimed the work. An acknowledgement from here would count as that worker's: none is sent."""


class BusLost(Exception):  # noqa: N818
    """A stream or durable consumer is missing or differs from what the code expects: the service must exit."""


class LogDamaged(SettingsError):  # noqa: N818
    """The event log is not the one that the archive was built from. Services must not run until it is repaired."""


class AlreadyStored(Exception):  # noqa: N818
    """The log has an event on this subject already, and may have only one."""


class EventTooBig(Exception):  # noqa: N818
    """An event is larger than 256 KiB. (Above 1 MiB the server closes the connection.)"""


class Denied(Exception):  # noqa: N818
    """The message bus refused an operation: this service's credentials lack the right. Trying again will not help."""


class NotFound(Exception):  # noqa: N818
    """No such run, candidate or baseline. Over gRPC: NOT_FOUND."""


class Busy(Exception):  # noqa: N818
    """All slots are in use: retry soon. Over gRPC: RESOURCE_EXHAUSTED."""


class NotPossible(Exception):  # noqa: N818
    """The system's state does not allow it, and a retry does not help. Over gRPC: FAILED_PRECONDITION."""


_MACHINE = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOMEM, errno.EAGAIN,
        errno.EMFILE, errno.ENFILE, errno.EFBIG, errno.ESTALE,
    }
)  # fmt: skip


def is_of_the_machine(error: BaseException) -> bool:
    """Whether a disk, memory or another resource of this machine failed, which is nobody's work's fault."""
    return isinstance(error, OSError) and error.errno in _MACHINE


def sentence(error: Exception) -> str:
    """An error message for users: for an OSError its reason and file, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    return printable(str(error))


def reason_of(error: Exception) -> str:
    """Why a file that the sentence around it names cannot be used: of an OSError its reason alone."""
    return str(getattr(error, "strerror", None) or error)


_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_INVISIBLE = (0x200B, *range(0x2060, 0x2065), 0xFEFF, *range(0xE0000, 0xE0080))  # joiners are part of some scripts
_CONTROLS = {*range(0x20), *range(0x7F, 0xA0), *_DIRECTIONS, *_INVISIBLE} - {ord("\t"), ord("\n")}
_REPLACED = dict.fromkeys(_CONTROLS, "\N{REPLACEMENT CHARACTER}")


def printable(text: str) -> str:
    """Text of unknown origin for people or a model, without what controls a terminal or the direction of text, or is
    invisible: two names would look the same, and a model reads what people do not see."""
    return text.replace("\r\n", "\n").translate(_REPLACED)
