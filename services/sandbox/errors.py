"""What can go wrong with a confined child, and what it tells the caller to do."""


class SandboxError(Exception):
    """Root of everything this package raises on purpose."""


class SandboxUnavailable(SandboxError):  # noqa: N818 -- the word is the fact
    """The machine cannot run the sandbox (no fork server, a promised layer refused): stop or repair."""


class ChildError(SandboxError):
    """A child did not answer as asked: reject what it ran.

    Attributes:
        reason: one sentence that says what happened.
        log_tail: the end of what the child wrote to stdout and stderr, for the record.
    """

    def __init__(self, reason: str, log_tail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.log_tail = log_tail


class ChildDied(ChildError):  # noqa: N818 -- the word is the fact
    """The child ended, by itself or because it passed a limit other than time."""


class ChildTimeout(ChildError):  # noqa: N818 -- the word is the fact
    """The child did not answer in the time the caller gave it, or passed its own limit on wall time."""


class Malformed(ChildError):  # noqa: N818 -- the word is the fact
    """What came over the channel is not a message of the protocol."""
