"""The message bus: NATS JetStream behind a few words of our own. Nothing outside this package imports nats."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.chassis.bus.connection import Bus
    from services.chassis.bus.delivery import Consumer, Delivery, Depth
    from services.chassis.bus.topology import ConsumerSpec, StreamSpec

__all__ = ["Bus", "Consumer", "ConsumerSpec", "Delivery", "Depth", "Logged", "StreamSpec"]

_MODULES = {"Bus": "connection", "Consumer": "delivery", "Delivery": "delivery", "Depth": "delivery"}


def __getattr__(name: str) -> object:
    """What needs nats is imported when it is asked for: who only reads an archive does not wait for it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'topology')}"), name)


@dataclass(frozen=True)
class Logged:
    """One message of the log as it lies there."""

    sequence: int
    subject: str
    body: bytes
