"""What a handler may raise, and what the worker loop does about it.

Transient      the message comes again later, with back-off
NotYet         what the candidate depends on is still on its way: the message comes again in a moment
Rejected       a fact about the candidate: published as candidate.rejected, then acknowledged
HandedBack     the service is draining: the message comes again at once, elsewhere, and no failure is counted
Superseded     another worker has the message: nothing is said about it, and it comes again where that one falls silent
anything else  a dead letter with its traceback
"""

from collections.abc import Mapping


class SettingsError(Exception):
    """A setting is unknown or impossible. The message is the one sentence to print before exiting."""


class Transient(Exception):  # noqa: N818 - a condition to wait out, not an error of ours
    """What is needed is out of reach just now: try again after `delay` seconds."""

    def __init__(self, reason: str, delay: float | None = None) -> None:
        super().__init__(reason)
        self.delay = delay


class NotYet(Transient):
    """Nothing is out of reach: what the candidate depends on is not there yet."""


class Rejected(Exception):  # noqa: N818 - an outcome
    """The candidate ends here, for `reason`; `evidence` holds numbers and positions, never prose about scores."""

    def __init__(self, stage: str, reason: str, evidence: Mapping[str, object] | None = None) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason
        self.evidence = dict(evidence or {})


class HandedBack(Exception):  # noqa: N818 - an orderly way out
    """The work was checkpointed because the service is stopping; another replica goes on."""


class Superseded(Exception):  # noqa: N818
    """Another worker claimed the work. An acknowledgement or a refusal of ours would be taken for that one's."""


class BusLost(Exception):  # noqa: N818
    """A stream or durable consumer is missing or differs from what the code expects: the service must exit."""


class LogDamaged(SettingsError):  # noqa: N818
    """The event log is not the one that the archive was made from. Nothing may go on until it is repaired."""


class Denied(Exception):  # noqa: N818
    """The message bus refused an operation: this service's credentials lack the right. Trying again will not help."""


class NotFound(Exception):  # noqa: N818
    """No such run, candidate or baseline. Over gRPC: NOT_FOUND."""


class Busy(Exception):  # noqa: N818
    """Nothing is wrong, but there is no room just now: ask again in a moment. Over gRPC: RESOURCE_EXHAUSTED."""


class NotPossible(Exception):  # noqa: N818
    """The system's state does not allow it, and asking again will not help. Over gRPC: FAILED_PRECONDITION."""


def sentence(error: Exception) -> str:
    """An error as a person reads it: what the operating system says, without its number but with the file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
