"""Streams and durable consumers, for set-up and comparison, and the check that the broker syncs its writes."""

import asyncio
import json
import urllib.request
from dataclasses import dataclass
from urllib.error import URLError

from nats.js import api

from services.chassis.errors import BusLost, SettingsError
from services.chassis.logs import get_logger
from services.chassis.settings import ServiceSettings

EVENTS = "EVENTS"
ADVISORIES = "ADVISORIES"
HANDLING = "HANDLING"
HANDLING_SUBJECTS = "asi.handling"
"""A durable and a sequence follow: what a worker notes about a message in hand, see `services.chassis.deaths`."""
STAGES = ("mini", "tiny", "explore", "verify", "final")
MAX_EVENT_BYTES = 256 * 1024
MAX_COPY_BYTES = MAX_EVENT_BYTES + 1024
"""In the history of a fork lie events around other events."""
SECOND = 1.0  # nats-py counts durations in seconds


@dataclass(frozen=True)
class StreamSpec:
    """One stream."""

    name: str
    subjects: tuple[str, ...]
    keep_for_ever: bool = False
    newest_only: bool = False  # of each subject

    def config(self, replicas: int) -> api.StreamConfig:
        """What the server is asked for."""
        config = api.StreamConfig(
            name=self.name,
            subjects=list(self.subjects),
            retention=api.RetentionPolicy.LIMITS,
            storage=api.StorageType.FILE,
            # A nats-server 2.15.1 that came back after its death as the leader wrote plain records behind a block that
            # it had compressed: nobody could read its copy again, and the consumers it led delivered nothing.
            compression=api.StoreCompression.S2 if replicas == 1 else None,
            num_replicas=replicas,
            discard=api.DiscardPolicy.NEW if self.keep_for_ever else api.DiscardPolicy.OLD,
            max_age=0 if self.keep_for_ever else 30 * 24 * 3600 * SECOND,
            duplicate_window=600 * SECOND,
            deny_delete=self.keep_for_ever,
            deny_purge=self.keep_for_ever,
            allow_direct=True,
            max_msgs_per_subject=1 if self.newest_only else -1,
        )
        if self.keep_for_ever:
            config.max_msg_size = 2 * MAX_EVENT_BYTES
            config.max_msgs = -1  # the log is never cut; bytes are an operator's choice
        return config


@dataclass(frozen=True)
class ConsumerSpec:
    """One durable pull consumer, shared by the replicas of a service.

    It delivers without a limit: most deliveries after the first are due to outages, drains and the deaths of processes,
    which say nothing about a candidate. What a candidate is to blame for is found otherwise: a handler that raises
    makes a dead letter at once, and an engineer counts the claims that nobody survived.
    """

    durable: str
    filter: str
    ack_wait: float
    max_ack_pending: int
    stream: str = EVENTS

    def config(self) -> api.ConsumerConfig:
        """What the server is asked for."""
        return api.ConsumerConfig(
            durable_name=self.durable,
            filter_subject=self.filter,
            ack_policy=api.AckPolicy.EXPLICIT,
            deliver_policy=api.DeliverPolicy.ALL,
            ack_wait=self.ack_wait * SECOND,
            max_deliver=-1,
            max_ack_pending=self.max_ack_pending,
        )


def engineer_durable(stage: str) -> str:
    """The durable that all engineers of a stage share."""
    return f"engineer-{stage}"


def topology(
    most_replicas: int = 16, silence_seconds: float = 60.0
) -> tuple[tuple[StreamSpec, ...], tuple[ConsumerSpec, ...]]:
    """Everything that must exist before a service starts."""
    silence = silence_seconds
    streams = (
        StreamSpec(EVENTS, ("asi.v1.>",), keep_for_ever=True),
        StreamSpec(
            ADVISORIES,
            (
                f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{EVENTS}.>",
                f"$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.{EVENTS}.>",
            ),
        ),
        StreamSpec(HANDLING, (f"{HANDLING_SUBJECTS}.>",), newest_only=True),
    )
    engineers = tuple(
        ConsumerSpec(engineer_durable(stage), f"asi.v1.*.candidate.*.{stage}", silence, 2 * most_replicas)
        for stage in STAGES
    )
    return streams, (
        ConsumerSpec("researcher", "asi.v1.*.candidate.requested", silence, 64),
        *engineers,
        ConsumerSpec("judge", "asi.v1.*.candidate.trained", silence, 64),
        ConsumerSpec("analyst", "asi.v1.*.candidate.judged", silence, 64),
        ConsumerSpec("store", "asi.v1.>", silence / 2, 1000),
        ConsumerSpec("dead-letters", "$JS.EVENT.ADVISORY.>", silence / 2, 100, stream=ADVISORIES),
    )


def drift(
    name: str,
    expected: api.StreamConfig | api.ConsumerConfig,
    stream_config: api.StreamConfig | api.ConsumerConfig | None,
) -> list[str]:
    """Where the server's configuration of `name` differs from the expected one, a sentence each; None: it has none."""
    if stream_config is None:
        return [f"{name} does not exist"]
    differences = []
    for field, value in vars(expected).items():
        if value is None:
            continue
        other = getattr(stream_config, field)
        if other != value and not (value in (0, False) and not other):
            differences.append(f"{name}: {field} is {other!r}, must be {value!r}")
    return differences


OLDEST = (2, 10, 23)
"""Older ones lost or reordered messages of a stream when they were killed or their disk was full."""
MONITOR_SECONDS = 5.0


async def require_durability(settings: ServiceSettings, version: tuple[int, int, int]) -> None:
    """Raises SettingsError for a broker of ours that may lose what it has acknowledged; warns of another's.

    Whether it writes to disk before it acknowledges is told by its monitoring alone. Of a cluster, each server that
    answers is asked, since one may be down. Raises BusLost where none answers: that may be an outage, and a new start
    helps.
    """
    problems = []
    if version < OLDEST:
        problems.append(f"it is nats-server {'.'.join(map(str, version))}, and {'.'.join(map(str, OLDEST))} is needed")
    urls = [url.strip() for url in (settings.nats_monitor_url or "").split(",") if url.strip()]
    answers = await asyncio.gather(*(asyncio.to_thread(_syncs_always, url) for url in urls))
    silent = f"the broker's monitoring does not answer at {', '.join(urls)}; see ASI_NATS_MONITOR_URL"
    if False in answers:
        problems.append("it does not sync each write to disk: set `sync_interval: always` in its jetstream block")
    elif not urls:
        problems.append("nobody can tell whether it syncs: set ASI_NATS_MONITOR_URL to its `http` address")
    elif True not in answers and not settings.require_durable_broker:
        problems.append(f"nobody can tell whether it syncs: {silent}")
    if problems and settings.require_durable_broker:
        raise SettingsError(f"the broker may lose acknowledged events: {'; '.join(problems)}.")
    if True not in answers and settings.require_durable_broker:
        raise BusLost(silent)
    for problem in problems:
        get_logger().warning("the broker may lose acknowledged events", reason=problem)


def _syncs_always(monitor_url: str) -> bool | None:
    """None where it does not answer."""
    try:
        with urllib.request.urlopen(f"{monitor_url}/jsz", timeout=MONITOR_SECONDS) as answer:  # noqa: S310 - our setting
            return bool(json.load(answer)["config"].get("sync_always", False))
    except (URLError, OSError, ValueError, KeyError):
        return None
