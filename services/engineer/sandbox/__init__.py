"""Where candidate code runs: confined children of a warm fork server, spoken to over a private channel."""

from services.engineer.sandbox.child import Child
from services.engineer.sandbox.errors import (
    ChildDied,
    ChildError,
    ChildTimeout,
    Malformed,
    SandboxError,
    SandboxUnavailable,
)
from services.engineer.sandbox.host import Sandbox
from services.engineer.sandbox.limits import Limits
from services.engineer.sandbox.wire import JSON, Arrays, Message

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
