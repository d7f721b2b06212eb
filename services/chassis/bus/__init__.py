"""The message bus: a small interface to NATS JetStream. Nothing outside this package imports nats."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.chassis.bus.connection import Bus
    from services.chassis.bus.delivery import Consumer, Delivery

__all__ = ["Bus", "Consumer", "Delivery", "Logged"]
_MODULES = {"Bus": "connection", "Consumer": "delivery", "Delivery": "delivery"}


def __getattr__(name: str) -> object:
    """Import nats on first use, so that commands which only read an archive start faster."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


@dataclass(frozen=True)
class Logged:
    """One message of the log as it is stored."""

    sequence: int
    subject: str
    body: bytes
