"""Permissions on the message bus: one table for the server's configuration and the tests.

A service publishes its own facts, pulls from its own durable consumers and acknowledges their messages. No user reads
another user's inbox, and only the administrator creates or changes streams and consumers.
"""

from dataclasses import dataclass

from services.chassis.bus.subjects import ALL, PROGRESS, STAGED
from services.chassis.bus.topology import (
    ADVISORIES,
    EVENTS,
    HANDLING,
    HANDLING_SUBJECTS,
    STAGES,
    engineer_durable,
    topology,
)

API = "$JS.API"
INBOX = "_INBOX"
MIND_FACTS = ("mind.answered",)
WORKER_FACTS = ("candidate.rejected", "candidate.dead")
"""Facts that each service which handles candidates may publish."""


@dataclass(frozen=True)
class Rights:
    """The permissions of one user of the server."""

    facts: tuple[str, ...]  # it may publish, in every run
    durables: tuple[str, ...] = ()  # it pulls and acknowledges
    reads_log: bool = False
    watches: bool = False  # reads the state of each durable consumer
    administers: bool = False  # creates, changes and removes streams and consumers

    def publish(self) -> list[str]:
        """Subjects that this user may publish to, requests to JetStream among them."""
        if self.administers:
            return [ALL, f"{API}.>", "$JS.FC.>"]
        subjects = [f"asi.v1.*.{fact}" + (".*" if fact in STAGED else "") for fact in self.facts]
        streams = {EVENTS} if self.facts or self.reads_log else set()
        for spec in topology()[1]:
            if spec.durable in self.durables:
                streams |= {spec.stream, HANDLING}
                consumer = f"{spec.stream}.{spec.durable}"
                subjects += [f"{API}.CONSUMER.INFO.{consumer}", f"{API}.CONSUMER.MSG.NEXT.{consumer}"]
                subjects += [f"$JS.ACK.{consumer}.>", f"{HANDLING_SUBJECTS}.{spec.durable}.*"]
        if self.durables:
            subjects += [PROGRESS, f"{API}.STREAM.MSG.GET.{HANDLING}"]
        if self.reads_log:
            subjects += [f"{API}.STREAM.MSG.GET.{EVENTS}", f"{API}.CONSUMER.CREATE.{EVENTS}", f"$JS.FC.{EVENTS}.>"]
        if self.watches:
            streams |= {ADVISORIES, HANDLING}
            subjects.append(f"{API}.CONSUMER.INFO.*.*")
        return subjects + [f"{API}.STREAM.INFO.{stream}" for stream in sorted(streams)]

    def subscribe(self, public_key: str) -> list[str]:
        """Subjects that this user may subscribe to: its own inbox, and progress if it reads the log."""
        return [f"{inbox_of(public_key)}.>", *([PROGRESS] if self.reads_log else [])]


def inbox_of(public_key: str) -> str:
    """The prefix of a user's inboxes, derived from its public key for clients and the server's configuration."""
    return f"{INBOX}.{public_key}"


ADMINISTRATOR = "admin"
RIGHTS: dict[str, Rights] = {
    "store": Rights(
        facts=("candidate.requested", "candidate.promoted", "candidate.archived", "candidate.rejected",
               "candidate.dead", "run.dead", "run.stopped", "pool.updated", "discovery.confirmed",
               "discovery.refuted"),
        durables=("store", "dead-letters"),
        reads_log=True,
        watches=True,
    ),
    "researcher": Rights(("candidate.proposed", *WORKER_FACTS, *MIND_FACTS), ("researcher",)),
    "engineer": Rights(
        ("candidate.claimed", "candidate.released", "candidate.trained", "candidate.verified", *WORKER_FACTS,
         *MIND_FACTS),
        tuple(engineer_durable(stage) for stage in STAGES),
    ),
    "judge": Rights(("candidate.judged", "candidate.rescored", *WORKER_FACTS, *MIND_FACTS), ("judge",)),
    "analyst": Rights(("candidate.analysed", "ablation.wanted", *WORKER_FACTS, *MIND_FACTS), ("analyst",)),
    "console": Rights(
        facts=("run.started", "run.paused", "run.resumed", "run.stopped", "run.forked", "run.inherited",
               "candidate.rescored", "candidate.imported", "ablation.wanted", "dead.dropped"),
        reads_log=True,
        watches=True,
    ),
    ADMINISTRATOR: Rights(facts=(), administers=True),
}  # fmt: skip
"""The users. The administrator sets up and imports whole logs; no service runs as it."""
