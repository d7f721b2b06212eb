"""The store's settings and wiring: archive, applier, gRPC service, gauges and the consumer of dead letters.

A service that fails on a message publishes the dead letter with its traceback and terminates the message. If it crashes
between the two steps, the store makes the dead letter from the broker's advisory; both have the same id. The store
exports the gauges, since it has all states and always runs.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import Gauge
from pydantic import Field

from services.chassis.bus import Bus, Consumer, Delivery
from services.chassis.bus.subjects import fact_of, is_forged
from services.chassis.bus.topology import topology
from services.chassis.errors import SettingsError, Transient
from services.chassis.events import Cause
from services.chassis.logs import get_logger
from services.chassis.service import Service
from services.chassis.settings import ServiceSettings
from services.chassis.worker import dead_letter
from services.contracts import archive_pb2, archive_pb2_grpc
from services.contracts.candidate_pb2 import State
from services.store.applier import Applier
from services.store.backends import open_archive, require_archive
from services.store.ledger import RunLedger
from services.store.port import Archive, ArchiveUnavailable
from services.store.service import ArchiveService


class StoreSettings(ServiceSettings):
    """ASI_ARCHIVE_URL selects the archive; other settings are shared or begin with ASI_STORE_."""

    archive_url: str | None = Field(
        None, description="sqlite:///PATH or mongodb://…; default: archive.db below data_dir"
    )
    batch: int = Field(256, ge=1, le=1000, description="most events applied in one transaction")

    @property
    def archive(self) -> str:
        """The URL of the archive."""
        return self.archive_url or f"sqlite:///{(self.data_dir / 'archive.db').absolute()}"


CANDIDATES = Gauge("asi_candidates", "Candidates of a run by state", ["run", "state"])
QUEUE = Gauge("asi_queue_messages", "Messages of a durable consumer, waiting or in hand", ["durable", "state"])
GAUGE_SECONDS = 5.0
NEWEST_RUNS = 20
"""Runs whose candidates are counted, since Prometheus stores a series per run and state."""


async def update_gauges(archive: Archive, bus: Bus) -> None:
    """Update the gauges of candidates and queues without end.

    While the broker is unreachable, the last values remain; of the candidates also while the database is.
    """
    while True:
        try:
            for spec in topology()[1]:
                for state, messages in (await bus.depth(spec.durable))._asdict().items():
                    QUEUE.labels(spec.durable, state).set(messages)
            for run in (await archive.runs())[:NEWEST_RUNS]:
                counts = await archive.state_counts(run.run)
                for name, number in State.items():
                    if number:
                        state = name.removeprefix("STATE_").lower()
                        CANDIDATES.labels(run.run, state).set(counts.get(number, 0))
        except Transient as error:
            get_logger().warning("not measured", error=str(error))
        await asyncio.sleep(GAUGE_SECONDS)


SERVICE = "store"


async def record_dead_letters(bus: Bus, consumer: Consumer) -> None:
    """Turn advisories into `*.dead` events without end. Raises BusLost if the durable consumer is deleted."""
    while True:
        for delivery in await consumer.fetch(20):
            try:
                await _record_dead_letter(bus, delivery)
            except Transient:
                await delivery.redeliver(5)
                continue
            except (KeyError, TypeError, ValueError) as error:
                get_logger().error("an invalid advisory", error=str(error), sequence=delivery.sequence)
            await delivery.acknowledge()


async def _record_dead_letter(bus: Bus, delivery: Delivery) -> None:
    advisory = json.loads(delivery.body)
    sequence, consumer = int(advisory["stream_seq"]), str(advisory["consumer"])
    message = await bus.message_at(sequence)
    cause = Cause.of(message.body)
    fact_of(cause.event)  # skip facts that this version does not know
    if is_forged(message.subject, cause.event):
        raise ValueError(f"message {sequence} on {message.subject} does not belong to its subject")
    reason = str(advisory.get("reason") or "no reason given")
    deliveries = int(advisory.get("deliveries", 0))
    dead = dead_letter(cause, SERVICE, consumer, sequence, deliveries, reason)
    get_logger().error("dead letter", durable=consumer, sequence=sequence, reason=reason, run=cause.event.run)
    await bus.publish(dead)


OPEN_SECONDS = 1.0


async def _open_when_reachable(archive: Archive) -> None:
    """Open the archive, retrying while the database is unreachable.

    Raises SettingsError if it is damaged, or if its tables or indexes differ from the expected ones.
    """
    while True:
        try:
            await archive.open()
            if differences := await archive.drift():
                raise SettingsError(
                    f"the archive's schema differs: {differences[0]} (differences: {len(differences)}); "
                    "list them with `asi-arch setup`, and build a new archive with `asi-arch replay --into`."
                )
            if damage := await archive.damage():
                raise SettingsError(
                    f"the archive is damaged: {damage[0]}: restore a backup (`asi-arch restore`), or move it away and "
                    "restart, which rebuilds it from the log."
                )
            return
        except ArchiveUnavailable as error:
            get_logger().error("the database is unreachable", error=str(error))
            await asyncio.sleep(OPEN_SECONDS)


def require(settings: StoreSettings) -> None:
    """Raises SettingsError for an archive URL that no wait would make valid."""
    require_archive(settings.archive)


@asynccontextmanager
async def build(service: Service, settings: StoreSettings) -> AsyncIterator[None]:
    """Open the archive and serve it within the context. Raises SettingsError for an invalid archive URL."""
    archive = open_archive(settings.archive)
    await _open_when_reachable(archive)
    try:
        applier = Applier(service.bus, archive, await service.bus.consumer("store"), settings.batch)
        dead_letters = record_dead_letters(service.bus, await service.bus.consumer("dead-letters"))
        answers = ArchiveService(archive, RunLedger(archive), applier.state)
        archive_pb2_grpc.add_ArchiveServicer_to_server(answers, service.server.grpc)
        service.rpc_names.append(archive_pb2.DESCRIPTOR.services_by_name["Archive"].full_name)
        service.tasks += [applier.run(), dead_letters, update_gauges(archive, service.bus)]
        service.healthy = lambda: not applier.state.outage
        yield
    finally:
        await archive.close()
