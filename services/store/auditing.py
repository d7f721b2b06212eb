"""Checks an exported run from its file alone: bytes, hashes, replay, and the statistics of its claims.

A line of the file holds an event twice, readable and as the bytes that were published; every event holds the hash of
the one that caused it; and the manifest, written at the export, holds all hashes and the archive's digest. A number
that was changed in one place contradicts another place, which is named. A consistent forgery of all of them
is still contradicted by training the finalist again.
"""

import base64
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from services.archive.policies import values_of
from services.chassis.bus import Logged
from services.chassis.bus.subjects import subject_of
from services.chassis.errors import SettingsError
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain.discovery import Finding, findings, prediction
from services.domain.ladder_settings import Climb, climb_of
from services.domain.promotion import Stage
from services.domain.statistics import Interval
from services.store.backends import open_archive
from services.store.importing import lines_of
from services.store.port import Query
from services.store.projection import original, read
from services.store.replay import Rebuilt

TOLERANCE = 1e-9
"""Nats, by which a recomputed effect may differ: sums of the same numbers in another order."""


@dataclass(frozen=True)
class Claim:
    """A verdict of the log, and the data needed to reproduce its training.

    `expected`: where one more fresh seed falls.
    """

    candidate: str
    name: str
    outcome: str
    control: str
    control_name: str
    effect: float
    interval: Interval
    expected: Interval
    tried: int
    seeds: tuple[int, ...]
    stage: str
    overrides: Mapping[str, str]
    program: str
    control_program: str


@dataclass(frozen=True)
class LogAudit:
    """What an exported log came to. `problems` name the event, and the field where it can be told."""

    run: str
    events: int
    digest: str
    problems: tuple[str, ...]
    claims: tuple[Claim, ...]


def manifest_of(logged: Sequence[Logged], run: str, digest: str, refused: Iterable[bytes]) -> dict[str, object]:
    """What an export says of itself: the digest of the archive, the hash of each event, and of those it refused."""
    hashes = [hashlib.sha256(one.body).hexdigest() for one in logged]
    return {"run": run, "digest": digest, "refused": sorted(one.hex() for one in refused), "sha256": hashes}


def manifest_path(path: Path) -> Path:
    """Beside the log: r1.jsonl.gz has r1.manifest.json."""
    return path.with_name(f"{path.name.removesuffix('.gz').removesuffix('.jsonl')}.manifest.json")


async def audit_log(path: Path, manifest: Mapping[str, object]) -> LogAudit:
    """Check every line, the chain, the manifest; replay in memory and into a fresh archive; recompute the claims."""
    problems: list[str] = []
    logged = list(_messages(lines_of(path), problems))
    if not logged:
        raise SettingsError(f"{path} holds no event.")
    problems += _against_manifest(logged, manifest)
    problems += _chain(logged)
    run = str(manifest["run"])
    numbered = [Logged(number, one.subject, one.body) for number, one in enumerate(logged, 1)]
    with Rebuilt() as rebuilt:
        rebuilt.apply([read(one) for one in numbered])
        digest, events = rebuilt.digest()
        problems += [
            f"event {one.event} is refused in the replay: {one.refused_because}"
            for one in rebuilt.seen
            if not one.accepted and one.sha256.hex() not in _refused(manifest)
        ]
    if digest != manifest["digest"]:
        problems.append(f"the replay's digest is {digest[:16]}, the manifest's {str(manifest['digest'])[:16]}")
    records, imported = await _imported(numbered, run)
    if imported != digest:
        problems.append(f"a fresh archive has the digest {imported[:16]}, the replay in memory {digest[:16]}")
    claims, wrong = _claims(records, _rounds(numbered))
    return LogAudit(run, events, digest, (*dict.fromkeys((*problems, *wrong)),), claims)


def _messages(lines: Iterable[str], problems: list[str]) -> Iterator[Logged]:
    """The messages of the file; what is not as an export writes it is added to `problems`."""
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            body = base64.b64decode(line["body"], validate=True)
            subject, readable = str(line["subject"]), line["event"]
            event = events_pb2.Event.FromString(body)
        except (ValueError, KeyError, TypeError, DecodeError) as error:
            problems.append(f"line {number} is not an exported event: {error}")
            continue
        decoded = MessageToDict(event, preserving_proto_field_name=True)
        for field, shown, held in _unequal(readable, json.loads(json.dumps(decoded)), ""):
            problems.append(f"event {event.id}: {field} reads {shown}, but its bytes hold {held}")
        try:
            if subject_of(event) != subject:
                problems.append(f"event {event.id}: it stands under {subject}, and belongs under {subject_of(event)}")
        except ValueError as error:
            problems.append(f"event {event.id}: {error}")
        yield Logged(number, subject, body)


def _unequal(shown: object, held: object, at: str) -> Iterator[tuple[str, object, object]]:
    """Every field in which two JSON values differ, by its path."""
    if isinstance(shown, dict) and isinstance(held, dict):
        for name in sorted(shown.keys() | held.keys()):
            yield from _unequal(shown.get(name), held.get(name), f"{at}.{name}" if at else name)
    elif isinstance(shown, list) and isinstance(held, list) and len(shown) == len(held):
        for place, (one, other) in enumerate(zip(shown, held, strict=True)):
            yield from _unequal(one, other, f"{at}[{place}]")
    elif shown != held:
        yield at or "the event", _short(shown), _short(held)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _against_manifest(logged: Sequence[Logged], manifest: Mapping[str, object]) -> list[str]:
    """Events whose bytes are not those that were exported, by the place that they have in the log."""
    listed = manifest.get("sha256")
    hashes = [str(one) for one in listed] if isinstance(listed, list) else []
    problems = []
    if len(logged) != len(hashes):
        problems.append(f"the log holds {len(logged)} events, the manifest {len(hashes)}")
    known = set(hashes)
    for one in logged:
        if (digest := hashlib.sha256(one.body).hexdigest()) not in known:
            place = hashes[one.sequence - 1][:16] if one.sequence <= len(hashes) else "none"
            problems.append(f"event {_id(one)} was changed: its bytes hash to {digest[:16]}, the manifest has {place}")
    return problems


def _chain(logged: Sequence[Logged]) -> list[str]:
    """Events whose hash is not the one that those which they caused hold."""
    hashes = {_id(one): hashlib.sha256(original(one.body)).digest() for one in logged}
    problems = []
    for one in logged:
        event = events_pb2.Event.FromString(original(one.body))
        if event.previous and hashes.get(event.cause, event.previous) != event.previous:
            problems.append(
                f"event {event.cause} is not what it was when {event.id} followed from it: its bytes hash to "
                f"{hashes[event.cause].hex()[:16]}, and {event.id} holds {event.previous.hex()[:16]}"
            )
    return problems


def _id(logged: Logged) -> str:
    return events_pb2.Event.FromString(original(logged.body)).id


def _refused(manifest: Mapping[str, object]) -> set[str]:
    """Hashes of events that the run's own archive refused, as of a worker that was too late."""
    listed = manifest.get("refused")
    return {str(one) for one in listed} if isinstance(listed, list) else set()


async def _imported(logged: Sequence[Logged], run: str) -> tuple[list[pb.Candidate], str]:
    """All candidates as a fresh archive holds them, and its digest."""
    with tempfile.TemporaryDirectory() as folder:
        archive = open_archive(f"sqlite:///{folder}/audit.db")
        await archive.open()
        try:
            await archive.apply(logged)
            page = await archive.list_candidates(Query(run, sort="time", limit=10**9))
            records = [await archive.record(run, candidate.id) for candidate in page.candidates]
            return records, (await archive.digest(run))[0]
        finally:
            await archive.close()


@dataclass(frozen=True)
class _Round:
    """Verdicts that were given together, by candidate, under the rules that held then."""

    climb: Climb
    verdicts: dict[str, pb.Discovery]


def _rounds(logged: Sequence[Logged]) -> list[_Round]:
    """Every round of verdicts that tested something; a fork may have tested a candidate before, by other rules."""
    settings, rounds = events_pb2.RunSettings(), dict[str, _Round]()
    for one in logged:
        event = read(one).log.event
        match event.WhichOneof("fact"):
            case "run_started" | "run_forked" as fact:
                settings = getattr(event, fact).settings
            case "discovery_confirmed" | "discovery_refuted" as fact if getattr(event, fact).discovery.HasField(
                "effect"
            ):
                overrides = dict(settings.scale_overrides)
                climb = climb_of(settings.promotion, values_of(settings.policies), settings.scale, overrides)
                verdicts = rounds.setdefault(event.cause, _Round(climb, {})).verdicts
                verdicts[event.candidate] = getattr(event, fact).discovery
    return list(rounds.values())


def _claims(records: Sequence[pb.Candidate], rounds: Iterable[_Round]) -> tuple[tuple[Claim, ...], tuple[str, ...]]:
    """The last verdict on each candidate; and where one comes out otherwise when it is computed from the losses."""
    by_id = {record.id: record for record in records}
    claims: dict[str, Claim] = {}
    wrong: list[str] = []
    for tested in rounds:
        seeds = {name: tuple(verdict.seeds) for name, verdict in tested.verdicts.items()}
        losses = {name: _losses(by_id[name], own) for name, own in seeds.items()}
        policy = replace(tested.climb.discovery, seeds=min(len(own) for own in seeds.values()))
        for name, verdict in tested.verdicts.items():
            controls = {control: _losses(by_id[control], verdict.seeds) for control in verdict.controls}
            again = {finding.candidate: finding for finding in findings(losses, controls, verdict.tried, policy)}[name]
            wrong += _verdict_differences(name, verdict, again)
            claims[name] = _claim(by_id[name], by_id[verdict.control], verdict, tested.climb.stages[-1])
    order = {"confirmed": 0, "undecided": 1, "refuted": 2}
    ranked = sorted(claims.values(), key=lambda claim: (order.get(claim.outcome, 3), -claim.effect))
    return tuple(ranked), tuple(wrong)


def _claim(record: pb.Candidate, control: pb.Candidate, verdict: pb.Discovery, stage: Stage) -> Claim:
    interval = Interval(verdict.interval.low, verdict.interval.high, verdict.interval.level)
    return Claim(
        candidate=record.id,
        name=record.proposal.name,
        outcome=verdict.outcome,
        control=verdict.control,
        control_name=control.proposal.name,
        effect=verdict.effect,
        interval=interval,
        expected=prediction(verdict.effect, interval, len(verdict.seeds)),
        tried=verdict.tried,
        seeds=tuple(verdict.seeds),
        stage=stage.scale,
        overrides=dict(stage.overrides),
        program=record.proposal.program,
        control_program=control.proposal.program,
    )


def _losses(record: pb.Candidate, seeds: Iterable[int]) -> dict[int, float]:
    """The losses of a second training, of these seeds alone."""
    chosen = set(seeds)
    trainings = [verification.training for verification in record.verifications]
    return {seed.seed: seed.loss for training in trainings for seed in training.seeds if seed.seed in chosen}


def _verdict_differences(candidate: str, verdict: pb.Discovery, again: Finding) -> Iterator[str]:
    numbers = {
        "effect": (verdict.effect, again.effect),
        "p_value": (verdict.p_value, again.p),
        "adjusted_p_value": (verdict.adjusted_p_value, again.adjusted_p),
    }
    for name, (held, found) in numbers.items():
        if found is None or abs(held - found) > TOLERANCE:
            yield f"the claim on {candidate}: {name} is {held:.6g} on record, and {found} by the losses on record"
    if (verdict.outcome, verdict.control) != (again.outcome.value, again.control):
        yield (
            f"the claim on {candidate} is {verdict.outcome} against {verdict.control} on record, "
            f"and {again.outcome.value} against {again.control} by the losses on record"
        )
