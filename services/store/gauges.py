"""What the store measures for everybody: candidates by state, and the depth of every queue.

The store alone exports these: its archive knows the states, and it is there when a scaled service has no replica.
"""

import asyncio

from services.chassis import metrics
from services.chassis.bus import Bus
from services.chassis.bus.topology import topology
from services.chassis.errors import Transient
from services.chassis.logs import get_logger
from services.contracts.candidate_pb2 import State
from services.store.port import Archive, ArchiveUnavailable

SECONDS = 5.0
NEWEST_RUNS = 20
"""Runs whose candidates are counted: Prometheus keeps a series for each state of each."""


class Gauges:
    """Keeps the gauges of the process up to date."""

    def __init__(self, archive: Archive, bus: Bus) -> None:
        self._archive = archive
        self._bus = bus

    async def run(self) -> None:
        """For ever, every few seconds. Where database or broker are away the last values stand."""
        while True:
            try:
                await self.measure()
            except (ArchiveUnavailable, Transient) as error:
                get_logger().warning("not measured", error=str(error))
            await asyncio.sleep(SECONDS)

    async def measure(self) -> None:
        """Count once. Raises ArchiveUnavailable or Transient."""
        for run in (await self._archive.runs())[:NEWEST_RUNS]:
            counts = await self._archive.state_counts(run.run)
            for name, number in State.items():
                if number:
                    state = name.removeprefix("STATE_").lower()
                    metrics.CANDIDATES.labels(run.run, state).set(counts.get(number, 0))
        for spec in topology()[1]:
            for state, messages in zip(metrics.QUEUE_STATES, await self._bus.depth(spec.durable), strict=True):
                metrics.QUEUE.labels(spec.durable, state).set(messages)
