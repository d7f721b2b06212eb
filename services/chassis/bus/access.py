"""Users of the message bus: their rights, one table for the server's configuration and the tests, and credentials.

A service publishes its own facts, pulls from its own durable consumers and acknowledges their messages. No user reads
another user's inbox, and only the administrator creates or changes streams and consumers. A service authenticates with
the nkey seed in its settings and verifies the server by TLS.
"""

import ssl
from dataclasses import dataclass
from typing import Any

import nkeys

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
from services.chassis.errors import SettingsError
from services.chassis.settings import ServiceSettings

API = "$JS.API"
INBOX = "_INBOX"
WORKER_FACTS = ("candidate.rejected", "candidate.dead", "mind.answered")
"""Facts that each service which handles candidates with a mind may publish."""


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
    "researcher": Rights(("candidate.proposed", *WORKER_FACTS), ("researcher",)),
    "engineer": Rights(
        ("candidate.claimed", "candidate.released", "candidate.trained", "candidate.verified", *WORKER_FACTS),
        tuple(engineer_durable(stage) for stage in STAGES),
    ),
    "judge": Rights(("candidate.judged", "candidate.rescored", *WORKER_FACTS), ("judge",)),
    "analyst": Rights(("candidate.analysed", "ablation.wanted", *WORKER_FACTS), ("analyst",)),
    "console": Rights(
        facts=("run.started", "run.paused", "run.resumed", "run.stopped", "run.forked", "run.inherited",
               "candidate.rescored", "candidate.imported", "ablation.wanted", "dead.dropped"),
        reads_log=True,
        watches=True,
    ),
    ADMINISTRATOR: Rights(facts=(), administers=True),
}  # fmt: skip
"""The users. The administrator sets up and imports whole logs; no service runs as it."""


def connect_options(settings: ServiceSettings) -> dict[str, Any]:
    """User and encryption, as arguments of nats-py's `connect`. Raises SettingsError for an invalid key or file."""
    seed, tls = _seed(settings), _tls(settings)
    inbox = INBOX if seed is None else inbox_of(public_key(seed))
    return {
        "nkeys_seed_str": seed,
        "inbox_prefix": inbox.encode(),
        "tls": tls,
        "tls_handshake_first": tls is not None,  # a forged plain-text greeting could ask for no TLS
    }


def public_key(seed: str) -> str:
    """The key under which the server knows a user. Raises SettingsError if it is not a user seed."""
    try:
        return str(nkeys.from_seed(bytearray(seed.encode())).public_key.decode())
    except (nkeys.ErrInvalidSeed, nkeys.ErrInvalidPrefixByte, ValueError):
        raise SettingsError("ASI_NATS_NKEY_SEED is not a user's nkey seed: begin with SU, 58 characters.") from None


def refusal(error: Exception) -> str | None:
    """Why reconnecting cannot succeed; None if it may."""
    if "authorization violation" in str(error).lower():
        return "NATS refused the credentials: set ASI_NATS_NKEY_SEED (or ASI_NATS_NKEY_FILE) to a seed of its users."
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message
        return f"the certificate that NATS shows is not trusted ({reason}): set ASI_NATS_CA to its authority's."
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return (
            f"no TLS connection to NATS ({error.reason}): with ASI_NATS_CA or a tls:// address the server needs "
            "`handshake_first`, and ASI_NATS_CERT and ASI_NATS_KEY where it asks for certificates."
        )
    return None


def _seed(settings: ServiceSettings) -> str | None:
    if settings.nats_nkey_seed is not None:
        return settings.nats_nkey_seed.get_secret_value().strip()
    if settings.nats_nkey_file is None:
        return None
    try:
        return settings.nats_nkey_file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"ASI_NATS_NKEY_FILE={settings.nats_nkey_file} cannot be read: {error}.") from None


def _tls(settings: ServiceSettings) -> ssl.SSLContext | None:
    if settings.nats_ca is None and not settings.nats_url.startswith(("tls://", "wss://")):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.nats_ca)
        if settings.nats_cert and settings.nats_key:
            context.load_cert_chain(settings.nats_cert, settings.nats_key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"ASI_NATS_CA, ASI_NATS_CERT or ASI_NATS_KEY cannot be used: {error}.") from None
    return context


def seed_variable(user: str) -> str:
    """The variable of a deployment's environment file that holds a user's seed, such as JUDGE_NATS_SEED."""
    return f"{user.upper()}_NATS_SEED"
