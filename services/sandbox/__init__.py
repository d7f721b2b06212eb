"""Confined child processes for candidate code, forked from a fork server with modules preloaded.

The host starts children and enforces their limits (`Sandbox`, `Child`); a job in a child communicates over a `Channel`.
The jobs themselves are in other packages, and nothing here imports torch.
"""

from services.sandbox.child import Child
from services.sandbox.host import PRELOAD_CHECKS, PRELOAD_COMPILER, Sandbox
from services.sandbox.limits import (
    MAX_LOST,
    ChildDied,
    ChildError,
    ChildTimeout,
    Limits,
    Malformed,
    SandboxLost,
    SandboxUnavailable,
)
from services.sandbox.wire import JSON, Array, Channel, Message

__all__ = [
    "JSON",
    "MAX_LOST",
    "PRELOAD_CHECKS",
    "PRELOAD_COMPILER",
    "Array",
    "Channel",
    "Child",
    "ChildDied",
    "ChildError",
    "ChildTimeout",
    "Limits",
    "Malformed",
    "Message",
    "Sandbox",
    "SandboxLost",
    "SandboxUnavailable",
]
