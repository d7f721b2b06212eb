"""Confined children for candidate code: a warm fork server, layers of isolation, limits, and a private channel.

The engineer's side starts children and holds them to their limits (`Sandbox`, `Child`); the guest's side answers over a
`Channel`. What a job computes, and what its answers mean, is the engineer's business: nothing here imports torch.
"""

from services.sandbox.child import Child
from services.sandbox.host import PRELOAD_CHECKS, Sandbox
from services.sandbox.limits import (
    ChildDied,
    ChildError,
    ChildTimeout,
    Limits,
    Malformed,
    SandboxError,
    SandboxUnavailable,
)
from services.sandbox.wire import JSON, Arrays, Channel, Message

__all__ = [
    "JSON",
    "PRELOAD_CHECKS",
    "Arrays",
    "Channel",
    "Child",
    "ChildDied",
    "ChildError",
    "ChildTimeout",
    "Limits",
    "Malformed",
    "Message",
    "Sandbox",
    "SandboxError",
    "SandboxUnavailable",
]
