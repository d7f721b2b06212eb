"""Where candidate code runs: confined children of a warm fork server, spoken to over a private channel."""

from services.sandbox.child import Child
from services.sandbox.errors import (
    ChildDied,
    ChildError,
    ChildTimeout,
    Malformed,
    SandboxError,
    SandboxUnavailable,
)
from services.sandbox.host import Sandbox
from services.sandbox.limits import Limits
from services.sandbox.wire import JSON, Arrays, Message

__all__ = [
    "JSON",
    "Arrays",
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
