"""Imports published records and exported logs as a new run.

The published archive of ASI-Arch is `tree.json` and `106.json`; its code writes the collection `data_elements` of
MongoDB, as mongoexport or mongodump write it to files, and `candidate_storage.json`. Records are identified by index,
since names repeat; nan cells are not measured and are skipped. An unknown parent, a cycle or a duplicate index is
refused before anything is imported.
"""

import ast
import asyncio
import base64
import hashlib
import json
import reprlib
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf.message import DecodeError

from services.chassis.bus import Bus
from services.chassis.bus.subjects import subject_of
from services.chassis.bus.topology import MAX_EVENT_BYTES
from services.chassis.errors import AlreadyStored, SettingsError, Transient
from services.chassis.events import Cause, body_of, first, fit, follow
from services.contracts import events_pb2
from services.domain import lineage
from services.domain.syntax import parse
from services.store.exporting import lines_of, table_of, values_of
from services.store.published import FIELDS, STAGE, Published, candidate_of, is_absent, name_from, parsed_record

_ENVELOPE_BYTES = 1024
"""Space for an event's id, cause, run and trace."""
_SUFFIXES = (".json", ".jsonl", ".bson", ".json.gz", ".jsonl.gz", ".bson.gz")


class BadArchive(ValueError):  # noqa: N818
    """The files cannot be imported; the message names the records and their problems."""


@dataclass(frozen=True)
class PublishedArchive:
    """Records, parents before children, the problems of skipped ones, one sentence each, and fields not imported."""

    records: tuple[Published, ...]
    left_out: tuple[str, ...]
    other_fields: tuple[str, ...] = ()


FORMATS = ("asi-arch", "programs", "jsonl", "parquet")


def format_of(path: Path) -> str:
    """The format that a path looks like."""
    if path.is_dir():
        return "programs" if any(path.glob("*.py")) and not any(path.glob("*.json")) else "asi-arch"
    suffix = Path(path.name.removesuffix(".gz")).suffix.removeprefix(".")
    return suffix if suffix in ("jsonl", "parquet") else "asi-arch"


def read_published(path: Path, skip_bad: bool = False, detach: bool = False) -> PublishedArchive:
    """Read a folder with `tree.json` and a file of details, an export of the collection, or a file of either.

    With `detach` a record whose parent is in neither becomes a root: the published details alone lack most parents.
    Raises BadArchive for an invalid record; with `skip_bad` such records are skipped and listed.
    """
    problems: list[str] = []
    raw = _raw_records(path, problems)
    parsed = _parsed(raw, problems)
    if detach:
        parsed = {
            index: replace(record, parent=record.parent if record.parent in parsed else None)
            for index, record in parsed.items()
        }
    sound = _sound(parsed, problems)
    missing = any(record.parent not in (None, *parsed) for record in parsed.values())
    _refuse(problems, skip_bad, "--detach makes roots of records with an unknown parent, " if missing else "")
    if not sound:
        raise BadArchive("; ".join([f"{path} holds no record that can be imported", *problems[:10]]) + ".")
    depth = lineage.depths(_parents(sound))
    order = sorted(sound, key=lambda index: (depth[str(index)], index))
    other = {name for _, fields in raw for name, value in fields.items() if not is_absent(value)} - FIELDS
    return PublishedArchive(tuple(sound[index] for index in order), tuple(problems), tuple(sorted(other)))


def read_programs(folder: Path, skip_bad: bool = False) -> PublishedArchive:
    """The Python files of a folder as records without scores: file names are names, docstrings motivations.

    Raises BadArchive for an invalid program; with `skip_bad` such files are skipped and listed.
    """
    if not folder.is_dir():
        raise BadArchive(f"there is no folder {folder}: give a folder with .py files.")
    records, problems = list[Published](), list[str]()
    for path in sorted(folder.glob("*.py")):
        try:
            program = path.read_text(encoding="utf-8-sig")
            motivation = ast.get_docstring(parse(program)) or ""
            record = Published(len(records) + 1, name_from(path.stem), None, None, program, motivation)
            _require_storable(record)
        except (OSError, ValueError) as error:
            problems.append(f"{ascii(path.name)[1:-1]} is not a Python program: {error}")
            continue
        records.append(record)
    _refuse(problems, skip_bad)
    if not records:
        raise BadArchive(f"{folder} holds no Python program: give a folder with .py files.")
    return PublishedArchive(tuple(records), tuple(problems))


def _refuse(problems: Sequence[str], skip_bad: bool, hint: str = "") -> None:
    if problems and not skip_bad:
        more = f" (and {len(problems) - 10} more)" if len(problems) > 10 else ""
        raise BadArchive("; ".join(problems[:10]) + more + f". Nothing was imported; {hint}--skip-bad skips these.")


def _parents(records: Mapping[int, Published]) -> dict[str, str | None]:
    return {str(index): None if record.parent is None else str(record.parent) for index, record in records.items()}


_Raw = tuple[str, Mapping[str, object]]
"""A record's place in its file, and its fields."""


def _raw_records(path: Path, problems: list[str]) -> list[_Raw]:
    """All records of the files; those of other files replace the records of a tree, which have fewer fields."""
    if not path.exists():
        raise BadArchive(f"there is no file or folder {path}")
    files = [path]
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.name.endswith(_SUFFIXES) and file.is_file()]
        files = [file for file in files if ".metadata." not in file.name]  # the indexes that mongodump writes
    if not files:
        raise BadArchive(
            f"{path} holds no file of records: it needs tree.json and a file of details, or an export of MongoDB"
        )
    tree, detailed = list[_Raw](), list[_Raw]()
    for file in files:
        name = file.name if file.name.isprintable() else ascii(file.name)[1:-1]
        read = len(tree) + len(detailed)
        try:
            for place, value in values_of(file):
                records = tree if isinstance(value, dict) and "results" in value else detailed
                records += _records_in(value, name, place)
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            partly = " to its end" if len(tree) + len(detailed) > read else ""
            problems.append(f"{name} cannot be read{partly}: {reason}")
    indices = {_key(fields) for _, fields in detailed}
    return [*(raw for raw in tree if _key(raw[1]) not in indices), *detailed]


def _records_in(value: object, name: str, place: str) -> Iterator[_Raw]:
    """The records of a list; of an object, those of its `results` or `candidates`, or of its only list, or itself."""
    listed = value
    if isinstance(value, dict):
        lists = [] if FIELDS & value.keys() else [part for part in value.values() if isinstance(part, list)]
        listed = value.get("results", value.get("candidates", lists[0] if len(lists) == 1 else value))
    for number, record in enumerate(listed if isinstance(listed, list) else [listed], 1):
        place = f"record {number}" if listed is not record else place
        if not isinstance(record, dict) or not FIELDS & record.keys():
            held = f"but is {reprlib.repr(record)}"
            if isinstance(record, dict):
                held = f"but has {textwrap.shorten(', '.join(record), 80, placeholder=' …')}"
            raise ValueError(f"{place} has no index, name or program, {held}")
        yield f"{name}, {place}", record


def _key(fields: Mapping[str, object]) -> object:
    index = fields.get("index")
    return index if isinstance(index, int | float) else repr(index)


def _parsed(raw: Iterable[_Raw], problems: list[str]) -> dict[int, Published]:
    records: dict[int, tuple[str, Published]] = {}
    for place, fields in raw:
        try:
            record = parsed_record(fields)
            _require_storable(record)
        except ValueError as error:
            index = reprlib.repr(fields["index"]) if "index" in fields else "none"
            problems.append(f"{place} (index {index}): {error}")
            continue
        first_place, first_record = records.setdefault(record.index, (place, record))
        if first_record != record:
            problems.append(f"{place}: index {record.index} occurs twice, with other content in {first_place}")
    return {index: record for index, (_, record) in records.items()}


def _require_storable(record: Published) -> None:
    """Raises ValueError if the record does not fit into an event, which must be known before the first is published."""
    size = len(record.program.encode())
    event = events_pb2.Event(id="r" * _ENVELOPE_BYTES)
    without_program = candidate_of("", replace(record, program=""))  # whose fingerprint takes long
    event.candidate_imported.record.CopyFrom(without_program)
    fit(event, MAX_EVENT_BYTES - size)
    if size + event.ByteSize() > MAX_EVENT_BYTES:
        raise ValueError(f"program has {size} bytes; an event of {MAX_EVENT_BYTES} bytes cannot hold it")


def _sound(records: Mapping[int, Published], problems: list[str]) -> dict[int, Published]:
    """The records without orphans, cycles and their descendants."""
    parents = _parents(records)
    flaws, children = lineage.flaws(parents), lineage.children(parents)
    problems += [f"record {index}: its parent {parents[index]} is unknown" for index in flaws.orphans]
    problems += [f"record {index} descends from itself" for index in flaws.cyclic]
    skipped = dict.fromkeys((*flaws.orphans, *flaws.cyclic))
    below = [(child, index) for index in skipped for child in children[index] if child not in skipped]
    for child, index in below:  # which grows, down to the leaves
        problems.append(f"record {child}: its parent {index} is skipped")
        skipped[child] = None
        below += [(grandchild, child) for grandchild in children[child]]
    return {index: record for index, record in records.items() if str(index) not in skipped}


SERVICE = "store"
MAX_CONCURRENT = 64
MOMENT = datetime(2025, 7, 1, tzinfo=UTC)  # fixed, so that the same files always give the same events


def events_of(run: str, records: Sequence[Published], source: str) -> list[events_pb2.Event]:
    """run.started of a run without seats, and candidate.imported for each record."""
    candidates = [candidate_of(run, record) for record in records]
    content = hashlib.sha256(b"".join(record.SerializeToString(deterministic=True) for record in candidates))
    started = first(run, "started", "console")
    started.id += f".{content.hexdigest()[:16]}"  # else other records would continue an import that has just begun
    started.time.FromDatetime(MOMENT)
    versions = {record.score_version for record in records if record.score is not None}
    fitness = versions.pop() if len(versions) == 1 else "code"
    started.run_started.settings.CopyFrom(
        events_pb2.RunSettings(scale=STAGE, mind="imported", seats=0, baselines=["imported"], fitness=fitness)
    )
    started.run_started.note = f"imported from {source}"
    cause, events = Cause.published(started), [started]
    for published, record in zip(records, candidates, strict=True):
        event = follow(cause, "imported", SERVICE, 1, record.id)
        event.time.FromDatetime(MOMENT)
        imported = events_pb2.CandidateImported(source=source, index=published.index, record=record)
        event.candidate_imported.CopyFrom(imported)
        fit(event, MAX_EVENT_BYTES)
        events.append(event)
    return events


def exported_bodies(path: Path, kind: str, skip_bad: bool) -> tuple[str, list[bytes], tuple[str, ...]]:
    """The run, its events' bodies, and the problems of skipped ones, of a file that `export --format` wrote as `kind`.

    Raises SettingsError naming an unreadable line or row, unless `skip_bad`, and NotPossible for a table without
    pyarrow.
    """
    bodies: list[bytes] = []
    skipped: list[str] = []
    run = ""
    rows: Iterable[tuple[str, bytes | str]] = table_of(path) if kind == "parquet" else _lines(path)
    for location, encoded in rows:
        try:
            body = encoded if isinstance(encoded, bytes) else _body(encoded)
            event = events_pb2.Event.FromString(body)
            subject_of(event)
        except (DecodeError, ValueError, TypeError, RecursionError) as error:
            if not skip_bad:
                raise SettingsError(
                    f"{path}, {location} is not an exported event: {error}. --skip-bad skips it."
                ) from None
            skipped.append(f"{location}: {error}")
            continue
        run = run or event.run
        if event.run != run:
            raise SettingsError(f"{path}, {location} belongs to run {event.run}, but the events before it to {run}.")
        bodies.append(body)
    if not bodies:
        raise SettingsError(f"{path} holds no event.")
    return run, bodies, tuple(skipped)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines_of(path), 1):
        yield f"line {number}", line


def _body(line: str) -> bytes:
    """The bytes of the event in a line. Raises ValueError if there are none, RecursionError for deep nesting."""
    content = json.loads(line)
    if not isinstance(content, dict) or not isinstance(content.get("body"), str):
        raise ValueError("it has no field `body` with text")
    return base64.b64decode(content["body"], validate=True)


async def publish(bus: Bus, run: str, bodies: Iterable[bytes], if_taken: str) -> int:
    """Publish those of a run's events that the log lacks, in order, and return their number.

    An interrupted import thus continues, and a repeated one changes nothing. Raises SettingsError if the log has other
    events of the run, or another command takes its name meanwhile; `if_taken` says what to do then.
    """
    taken = SettingsError(f"another run called {run} exists already: {if_taken}.")
    missing = dict.fromkeys(bodies)
    known = frozenset(missing)
    async for message in bus.read_log(f"asi.v1.{run}.>"):
        if message.body not in known:
            raise taken
        missing.pop(message.body, None)
    pending, new = list(missing), len(missing)
    if pending and new == len(known):  # the first one alone, so that of several commands at once one publishes more
        body = pending.pop(0)
        event = events_pb2.Event.FromString(body)
        try:
            await bus.publish_body(subject_of(event), event.id, body, only=f"asi.v1.{run}.>")
        except AlreadyStored:
            raise taken from None
    for start in range(0, len(pending), MAX_CONCURRENT):
        # One connection keeps their order.
        window = [(events_pb2.Event.FromString(body), body) for body in pending[start : start + MAX_CONCURRENT]]
        messages = (bus.publish_body(subject_of(event), event.id, body) for event, body in window)
        sequences = await asyncio.gather(*messages)
        if sequences != sorted(sequences):
            raise Transient("the broker did not keep the order of the events: import them into another ASI_DATA_DIR")
    return new


def bodies_of(events: Iterable[events_pb2.Event]) -> list[bytes]:
    """The events as they are published."""
    return [body_of(event) for event in events]
