"""The message bus: NATS JetStream behind a few words of our own. Nothing outside this package imports nats."""

from services.chassis.bus.connection import Bus, Logged
from services.chassis.bus.delivery import Consumer, Delivery, Depth
from services.chassis.bus.topology import ConsumerSpec, StreamSpec, topology

__all__ = ["Bus", "Consumer", "ConsumerSpec", "Delivery", "Depth", "Logged", "StreamSpec", "topology"]
