"""Streams and durable consumers, and the check that the broker syncs its writes."""

import asyncio
import contextlib
import http.client
import urllib.request
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from nats.js import api
from pydantic import BaseModel

from services.chassis.bus.subjects import ALL
from services.chassis.errors import BusLost, SettingsError
from services.chassis.logs import get_logger
from services.chassis.settings import ServiceSettings, without_user
from services.domain.ladder import SCALES

EVENTS = "EVENTS"
ADVISORIES = "ADVISORIES"
HANDLING = "HANDLING"
HANDLING_SUBJECTS = "asi.handling"
"""Followed by a durable consumer and a sequence; see `services.chassis.poison`."""
MAX_EVENT_BYTES = 256 * 1024
MAX_COPY_BYTES = MAX_EVENT_BYTES + 1024
"""The history of a fork holds events that contain other events."""
MAX_REPLICAS = 16  # of the engineers of a stage


@dataclass(frozen=True)
class StreamSpec:
    """One stream."""

    name: str
    subjects: tuple[str, ...]
    keep_forever: bool = False
    newest_only: bool = False  # of each subject

    def config(self, replicas: int) -> api.StreamConfig:
        """The configuration for the server."""
        return api.StreamConfig(
            name=self.name,
            subjects=list(self.subjects),
            retention=api.RetentionPolicy.LIMITS,
            storage=api.StorageType.FILE,
            # A nats-server 2.15.1 that restarted as the leader appended uncompressed records to a compressed block: its
            # copy became unreadable, and the consumers that it led delivered nothing.
            compression=api.StoreCompression.S2 if replicas == 1 else None,
            num_replicas=replicas,
            discard=api.DiscardPolicy.NEW if self.keep_forever else api.DiscardPolicy.OLD,
            max_age=0 if self.keep_forever else 30 * 24 * 3600.0,
            duplicate_window=600.0,
            deny_delete=self.keep_forever,
            deny_purge=self.keep_forever,
            allow_direct=True,
            max_msgs_per_subject=1 if self.newest_only else -1,
            max_msg_size=2 * MAX_EVENT_BYTES if self.keep_forever else -1,
            max_msgs=-1 if self.keep_forever else None,  # never truncated; operators may limit bytes
        )


@dataclass(frozen=True)
class ConsumerSpec:
    """One durable pull consumer, shared by the replicas of a service.

    The number of deliveries is unlimited: most redeliveries are caused by outages, drains and crashes that the
    candidate did not cause. Failures of the candidate are detected otherwise: an exception in a handler becomes a dead
    letter at once, and an engineer counts the claims during which a process crashed.
    """

    durable: str
    service: str
    filter: str
    ack_wait: float
    max_ack_pending: int
    stream: str = EVENTS

    def config(self) -> api.ConsumerConfig:
        """The configuration for the server."""
        return api.ConsumerConfig(
            durable_name=self.durable,
            filter_subject=self.filter,
            ack_policy=api.AckPolicy.EXPLICIT,
            deliver_policy=api.DeliverPolicy.ALL,
            ack_wait=self.ack_wait,
            max_deliver=-1,
            max_ack_pending=self.max_ack_pending,
        )


def engineer_durable(stage: str) -> str:
    """The durable consumer that all engineers of a stage share."""
    return f"engineer-{stage}"


def topology(silence_seconds: float = 60.0) -> tuple[tuple[StreamSpec, ...], tuple[ConsumerSpec, ...]]:
    """The streams and consumers that must exist before a service starts. Durations are in seconds, as in nats-py."""
    advisory = "$JS.EVENT.ADVISORY.CONSUMER"
    streams = (
        StreamSpec(EVENTS, (ALL,), keep_forever=True),
        StreamSpec(ADVISORIES, (f"{advisory}.MAX_DELIVERIES.{EVENTS}.>", f"{advisory}.MSG_TERMINATED.{EVENTS}.>")),
        StreamSpec(HANDLING, (f"{HANDLING_SUBJECTS}.>",), newest_only=True),
    )
    engineers = tuple(
        ConsumerSpec(
            engineer_durable(stage), "engineer", f"asi.v1.*.candidate.*.{stage}", silence_seconds, 2 * MAX_REPLICAS
        )
        for stage in SCALES
    )
    return streams, (
        ConsumerSpec("researcher", "researcher", "asi.v1.*.candidate.requested", silence_seconds, 64),
        *engineers,
        ConsumerSpec("judge", "judge", "asi.v1.*.candidate.trained", silence_seconds, 64),
        ConsumerSpec("analyst", "analyst", "asi.v1.*.candidate.judged", silence_seconds, 64),
        ConsumerSpec("store", "store", ALL, silence_seconds / 2, 1000),
        ConsumerSpec("dead-letters", "store", "$JS.EVENT.ADVISORY.>", silence_seconds / 2, 100, stream=ADVISORIES),
    )


def durables_of(service: str) -> tuple[str, ...]:
    """The durable consumers that a service pulls from."""
    return tuple(spec.durable for spec in topology()[1] if spec.service == service)


class Depth(NamedTuple):
    """The queue depth of a durable consumer, in messages."""

    waiting: int
    in_hand: int  # delivered and not acknowledged


class LogState(NamedTuple):
    """The state of the event stream."""

    last: int  # the newest sequence; 0 when it is empty
    missing: int  # lost messages: the log never deletes one


Config = api.StreamConfig | api.ConsumerConfig


def drift(name: str, expected: Config, actual: Config | None) -> list[str]:
    """Differences of the server's configuration of `name` from the expected one, as sentences; None: it is missing."""
    if actual is None:
        return [f"{name} does not exist"]
    fields = ((field, value, getattr(actual, field)) for field, value in vars(expected).items() if value is not None)
    return [
        f"{name}: {field} is {found!r}, must be {value!r}"
        for field, value, found in fields
        if found != value and (value or found)  # the server may omit what is 0 or false
    ]


REACH_SECONDS = 5.0
NATS_PORT = 4222


def no_server(nats_url: str) -> BusLost:
    """The error of a command, which does not wait for a broker as services do."""
    return BusLost(f"no NATS server answers at {without_user(nats_url)}: start one, or correct ASI_NATS_URL")


async def require_broker(nats_url: str) -> None:
    """Raises BusLost if nothing listens there."""
    if "," in nats_url:  # one server of a cluster is enough
        return
    parts = urlsplit(nats_url)
    try:
        async with asyncio.timeout(REACH_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or NATS_PORT)
    except (OSError, TimeoutError, ValueError):
        raise no_server(nats_url) from None
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


OLDEST = (2, 10, 23)  # older versions lost or reordered messages when they were killed or their disk was full
MONITOR_SECONDS = 5.0


async def require_durability(settings: ServiceSettings, version: tuple[int, int, int]) -> None:
    """Check that the broker does not lose acknowledged events: log a warning, or raise if durability is required.

    Only the broker's monitoring endpoint reports whether it syncs writes before acknowledging them. In a cluster each
    reachable server is asked. Raises SettingsError for an unsafe broker, and BusLost if no endpoint answers, which may
    be an outage that a restart of the service waits out.
    """
    problems = []
    if version < OLDEST:
        problems.append(f"it is nats-server {'.'.join(map(str, version))}, and {'.'.join(map(str, OLDEST))} is needed")
    urls = [url.strip() for url in (settings.nats_monitor_url or "").split(",") if url.strip()]
    answers = await asyncio.gather(*(asyncio.to_thread(_syncs_always, url) for url in urls))
    if False in answers:
        problems.append("it does not sync each write to disk: set `sync_interval: always` in its jetstream block")
    elif not urls:
        problems.append("whether it syncs is unknown: set ASI_NATS_MONITOR_URL to its `http` address")
    elif True not in answers:
        silent = f"the broker's monitoring does not answer at {', '.join(urls)}; see ASI_NATS_MONITOR_URL"
        if settings.require_durable_broker and not problems:
            raise BusLost(silent)
        problems.append(f"whether it syncs is unknown: {silent}")
    if problems and settings.require_durable_broker:
        raise SettingsError(f"the broker may lose acknowledged events: {'; '.join(problems)}.")
    for problem in problems:
        get_logger().warning("the broker may lose acknowledged events", reason=problem)


class _Config(BaseModel):
    sync_always: bool = False


class _JetStream(BaseModel):
    config: _Config


_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Without a proxy of the environment, since NATS itself needs none."""


def _syncs_always(monitor_url: str) -> bool | None:
    """None if it does not answer, or not as a broker with JetStream."""
    try:
        with _DIRECTLY.open(f"{monitor_url}/jsz", timeout=MONITOR_SECONDS) as answer:
            return _JetStream.model_validate_json(answer.read()).config.sync_always
    except (OSError, ValueError, http.client.HTTPException):  # or another server has its port
        return None
