"""The message bus: a small interface to NATS JetStream. Nothing outside this package imports nats."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from services.chassis.bus.connection import Bus
    from services.chassis.bus.delivery import Consumer, Delivery, Depth
    from services.chassis.bus.topology import ConsumerSpec, StreamSpec

__all__ = ["Bus", "Consumer", "ConsumerSpec", "Delivery", "Depth", "LogState", "Logged", "StreamSpec"]

_MODULES = {"Bus": "connection", "Consumer": "delivery", "Delivery": "delivery", "Depth": "delivery"}


def __getattr__(name: str) -> object:
    """Import nats on first use, so that commands which only read an archive start faster."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'topology')}"), name)


class LogState(NamedTuple):
    """The state of the event stream."""

    last: int  # the newest sequence; 0 when it is empty
    missing: int  # lost messages: the log never deletes one


@dataclass(frozen=True)
class Logged:
    """One message of the log as it is stored."""

    sequence: int
    subject: str
    body: bytes
