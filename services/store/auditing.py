"""Audits an exported run from its file alone: bytes, hashes, replay, and the statistics of its claims.

Each line contains an event twice, readable and as published; each event contains the hash of its cause; and the
manifest, written at the export, contains all hashes in order and the archive's digest. A change in one place
contradicts the others. SECURITY.md names what a consistent forgery of all of them can change.
"""

import base64
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.message import DecodeError

from services.chassis.bus import Logged
from services.chassis.bus.subjects import subject_of
from services.chassis.errors import NotFound, SettingsError, sentence
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.store.backends import opened
from services.store.exporting import lines_of
from services.store.port import Query
from services.store.projection import read
from services.store.replay import Rebuilt
from services.store.verdicts import Claim, claims_of, rounds_of

MAX_SUPERFLUOUS = 1000
"""Lines beyond those of the manifest that are read."""
MAX_PROBLEM = 400
_NAMES = frozenset(("sequence", "subject", "event", "body"))


@dataclass(frozen=True)
class LogAudit:
    """The result of an audit. Each problem names the event, and the field if it is known."""

    run: str
    events: int
    digest: str
    problems: tuple[str, ...]
    claims: tuple[Claim, ...]


def manifest_of(logged: Sequence[Logged], run: str, digest: str, refused: Iterable[bytes]) -> dict[str, object]:
    """The manifest of an export: the archive's digest, the hash of each event, and the hashes of refused ones."""
    hashes = [hashlib.sha256(message.body).hexdigest() for message in logged]
    return {"run": run, "digest": digest, "refused": sorted(sha256.hex() for sha256 in refused), "sha256": hashes}


def manifest_path(path: Path) -> Path:
    """The manifest beside a log: r1.manifest.json for r1.jsonl.gz."""
    return path.with_name(f"{path.name.removesuffix('.gz').removesuffix('.jsonl')}.manifest.json")


def read_manifest(path: Path) -> dict[str, object]:
    """The manifest in a file. Raises SettingsError if there is none."""
    try:
        manifest = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise SettingsError(
            f"there is no {path}, which `asi-arch export RUN --manifest` writes beside the log."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not a manifest that `export --manifest` wrote: {sentence(error)}.") from None
    required = {"run": str, "digest": str, "sha256": list}
    for name, kind in required.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(name), kind):
            raise SettingsError(f"{path} is not a manifest that `export --manifest` wrote: it has no valid {name}.")
    return dict(manifest)


async def audit_log(path: Path, manifest: Mapping[str, object]) -> LogAudit:
    """Check all lines, the chain and the manifest; replay in memory and into a new archive; recompute the claims."""
    problems: list[str] = []
    run, hashes, refused = str(manifest["run"]), _texts(manifest["sha256"]), set(_texts(manifest.get("refused")))
    lines = islice(lines_of(path), len(hashes) + MAX_SUPERFLUOUS)
    logged = list(_messages(lines, refused, problems))
    if not logged:
        raise SettingsError(f"{path} holds no event.")
    problems += _manifest_differences(logged, hashes)
    problems += _broken_links(logged)
    numbered = [Logged(number, message.subject, message.body) for number, message in enumerate(logged, 1)]
    with Rebuilt() as rebuilt:
        rebuilt.apply([read(message) for message in numbered])
        digest, events = rebuilt.digest()
        problems += [
            f"event {outcome.event} is refused in the replay: {outcome.refused_because}"
            for outcome in rebuilt.outcomes
            if not outcome.accepted and outcome.sha256.hex() not in refused
        ]
    if digest != manifest["digest"]:
        problems.append(f"the replay's digest is {digest[:16]}, the manifest's {str(manifest['digest'])[:16]}")
    try:
        records, archive_digest = await _apply_to_new_archive(numbered, run)
    except NotFound:
        problems.append(f"the log holds no valid start of run {run}, without which there is nothing to audit")
        return LogAudit(run, events, digest, _distinct(problems), ())
    if archive_digest != digest:
        problems.append(f"a new archive has the digest {archive_digest[:16]}, the replay in memory {digest[:16]}")
    claims, differences = claims_of(records, rounds_of(numbered))
    return LogAudit(run, events, digest, _distinct((*problems, *differences)), claims)


def _texts(listed: object) -> list[str]:
    return [str(text) for text in listed] if isinstance(listed, list) else []


def _distinct(problems: Iterable[str]) -> tuple[str, ...]:
    """Each problem once; ids and names in it may have any length."""
    return tuple(
        dict.fromkeys(text if len(text) <= MAX_PROBLEM else f"{text[: MAX_PROBLEM - 1]}…" for text in problems)
    )


def _messages(lines: Iterable[str], refused: Container[str], problems: list[str]) -> Iterator[Logged]:
    """The messages of the file; invalid lines are added to `problems`.

    A body that is no event may be in a log if the run refused it.
    """
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text, object_pairs_hook=_without_repetition)
            body = base64.b64decode(line["body"], validate=True)
            subject, readable = str(line["subject"]), line["event"]
            if superfluous := line.keys() - _NAMES:
                raise ValueError(f"it has the field {min(superfluous)!r}")
            if readable is None and hashlib.sha256(body).hexdigest() in refused:
                yield Logged(number, subject, body)
                continue
            event = events_pb2.Event.FromString(body)
            decoded = MessageToDict(event, preserving_proto_field_name=True)
            unequal = list(_unequal(readable, json.loads(json.dumps(decoded)), ""))
        except (ValueError, KeyError, TypeError, RecursionError, DecodeError, SerializeToJsonError) as error:
            problems.append(f"line {number} is not an exported event: {error}")
            continue
        for field, shown, actual in unequal:
            problems.append(f"event {event.id}: {field} reads {shown}, but its bytes hold {actual}")
        try:
            if subject_of(event) != subject:
                problems.append(f"event {event.id}: its subject is {subject}, but must be {subject_of(event)}")
        except ValueError as error:
            problems.append(f"event {event.id}: {error}")
        yield Logged(number, subject, body)


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON. Raises ValueError if a name occurs twice: people may read the first, programs the last."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name occurs twice in one of its objects")
    return fields


def _unequal(shown: object, actual: object, path: str) -> Iterator[tuple[str, object, object]]:
    """Every field in which two JSON values differ, by its path."""
    if isinstance(shown, dict) and isinstance(actual, dict):
        for name in sorted(shown.keys() | actual.keys()):
            yield from _unequal(shown.get(name), actual.get(name), f"{path}.{name}" if path else name)
    elif isinstance(shown, list) and isinstance(actual, list) and len(shown) == len(actual):
        for index, pair in enumerate(zip(shown, actual, strict=True)):
            yield from _unequal(*pair, f"{path}[{index}]")
    elif shown != actual:
        yield path or "the event", _short(shown), _short(actual)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _manifest_differences(logged: Sequence[Logged], hashes: Sequence[str]) -> list[str]:
    """Events whose bytes are not those that were exported, or not in that order."""
    problems = []
    if len(logged) != len(hashes):
        more = " or more" if len(logged) >= len(hashes) + MAX_SUPERFLUOUS else ""
        problems.append(f"the log holds {len(logged)}{more} events, the manifest {len(hashes)}")
    found = [hashlib.sha256(message.body).hexdigest() for message in logged]
    places = {sha256: place for place, sha256 in enumerate(hashes)}
    surplus = Counter(found)  # negative for missing events
    surplus.subtract(hashes)
    latest = 0
    for message, sha256 in zip(logged, found, strict=True):
        place = places.get(sha256, latest)
        if place < latest:
            problems.append(f"event {_name(message)} comes after later ones: the order was changed")
        latest = max(latest, place)
        if sha256 not in places:
            expected = hashes[message.sequence - 1][:16] if message.sequence <= len(hashes) else "none"
            problems.append(
                f"event {_name(message)} was changed: its bytes hash to {sha256[:16]}, the manifest has {expected}"
            )
        elif surplus[sha256] > 0:
            problems.append(f"event {_name(message)} occurs more often than in the manifest")
    for place, (sha256, shown) in enumerate(zip_longest(hashes, found[: len(hashes)], fillvalue=""), 1):
        if surplus[sha256] < 0 and (shown in places or not shown):  # else that event was changed
            problems.append(f"event {place} of the manifest is missing: no line's bytes hash to {sha256[:16]}")
    return problems


def _broken_links(logged: Sequence[Logged]) -> list[str]:
    """Events whose hash differs from the one in the events that they caused."""
    events = [read(message).log for message in logged]
    hashes = {log.event.id: log.sha256 for log in reversed(events)}  # the first one counts
    return [
        f"event {event.cause} was changed after {event.id} followed from it: its bytes hash to "
        f"{hashes[event.cause].hex()[:16]}, but {event.id} has {event.previous.hex()[:16]}"
        for event in (log.event for log in events)
        if event.previous and hashes.get(event.cause, event.previous) != event.previous
    ]


def _name(message: Logged) -> str:
    """The id of an event, or its place if it is none."""
    return read(message).log.event.id or f"{message.sequence}"


async def _apply_to_new_archive(logged: Sequence[Logged], run: str) -> tuple[list[pb.Candidate], str]:
    """All candidates of a new archive, and its digest."""
    with tempfile.TemporaryDirectory() as folder:
        async with opened(f"sqlite:///{folder}/audit.db") as archive:
            await archive.apply(logged)
            page = await archive.list_candidates(Query(run, sort="time", limit=10**9))
            return list(page.candidates), (await archive.digest(run))[0]
