"""Imports published records and exported logs as a new run.

The published archive of ASI-Arch is `tree.json` and `106.json` (any .json list of records). Records are identified by
index, since names repeat; nan cells are not measured and are skipped. An unknown parent, a cycle or a duplicate index
is refused before anything is imported.
"""

import ast
import asyncio
import csv
import json
import math
import re
import reprlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from services.chassis.bus import Bus
from services.chassis.bus.topology import MAX_EVENT_BYTES
from services.chassis.events import Cause, first, fit, follow
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain import lineage
from services.domain.run_state import candidate_id
from services.domain.structure import fingerprint
from services.domain.syntax import parse

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_STEP = re.compile(r"\d{1,9}(\.\d*)?")
_MAX_INDEX = 2**32 - 1
_ENVELOPE_BYTES = 1024
"""Space for an event's id, cause, run and trace."""
_AVERAGED = ("arc_challenge", "arc_easy", "boolq", "hellaswag", "piqa", "social_iqa", "winogrande")
"""The tasks whose accuracies the paper's tables average."""


class BadArchive(ValueError):  # noqa: N818
    """The files cannot be imported; the message names the records and their problems."""


@dataclass(frozen=True)
class Published:
    """A published record. `curve` is (step, training loss), `benchmarks` maps tasks to values."""

    index: int
    name: str
    parent: int | None
    score: float | None
    program: str = ""
    motivation: str = ""
    summary: str = ""
    parameters: int | None = None
    curve: tuple[tuple[int, float], ...] = ()
    benchmarks: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean_accuracy(self) -> float | None:
        """The paper's average; None unless all its tasks have an accuracy from 0 to 1."""
        values = [self.benchmarks.get(task) for task in _AVERAGED]
        accuracies = [value for value in values if value is not None and 0 <= value <= 1]
        return math.fsum(accuracies) / len(accuracies) if len(accuracies) == len(_AVERAGED) else None


@dataclass(frozen=True)
class PublishedArchive:
    """Records, parents before children, and the problems of skipped ones, one sentence each."""

    records: tuple[Published, ...]
    left_out: tuple[str, ...]


def read_published(path: Path, skip_bad: bool = False, detach: bool = False) -> PublishedArchive:
    """Read a folder with `tree.json` and a file of details, or one of the two files.

    With `detach` a record whose parent is in neither becomes a root: the published details alone lack most parents.
    Raises BadArchive for an invalid record; with `skip_bad` such records are skipped and listed.
    """
    raw = _raw_records(path)
    problems: list[str] = []
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
        raise BadArchive(f"{path} holds no record that can be imported.")
    depth = lineage.depths(_parents(sound))
    order = sorted(sound, key=lambda index: (depth[str(index)], index))
    return PublishedArchive(tuple(sound[index] for index in order), tuple(problems))


def read_programs(folder: Path, skip_bad: bool = False) -> PublishedArchive:
    """The Python files of a folder as records without scores: file names are names, docstrings motivations.

    Raises BadArchive for an invalid program; with `skip_bad` such files are skipped and listed.
    """
    records, problems = list[Published](), list[str]()
    for path in sorted(folder.glob("*.py")):
        try:
            program = path.read_text(encoding="utf-8-sig")
            motivation = ast.get_docstring(parse(program)) or ""
            record = Published(len(records) + 1, path.stem, None, None, program, motivation)
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


def _raw_records(path: Path) -> list[dict[str, object]]:
    """All records of the files; those of the details file replace the tree's."""
    if not path.exists():
        raise BadArchive(f"there is no file or folder {path}")
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise BadArchive(f"{path} holds no .json file: it needs tree.json and the file of details")
    slim: list[dict[str, object]] = []
    detailed: list[dict[str, object]] = []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise BadArchive(f"{file} cannot be read as JSON: {error}") from None
        results = content.get("results") if isinstance(content, dict) else content
        if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
            raise BadArchive(f'{file} is neither {{"results": [...]}} nor a list of records')
        (slim if isinstance(content, dict) else detailed).extend(results)
    indices = {json.dumps(record.get("index")) for record in detailed}
    return [*(record for record in slim if json.dumps(record.get("index")) not in indices), *detailed]


def _parsed(raw: Iterable[dict[str, object]], problems: list[str]) -> dict[int, Published]:
    records: dict[int, Published] = {}
    for number, fields in enumerate(raw, 1):
        try:
            record = _record(fields)
            _require_storable(record)
        except ValueError as error:
            problems.append(f"record {fields.get('index', f'number {number}')}: {error}")
            continue
        if other := records.get(record.index):
            problems.append(f"index {record.index} occurs twice ({other.name} and {record.name})")
        records.setdefault(record.index, record)
    return records


def _record(raw: Mapping[str, object]) -> Published:
    index = raw.get("index")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index <= _MAX_INDEX:
        raise ValueError(f"index must be a whole number from 0 to {_MAX_INDEX}, not {index!r}")
    parent = raw.get("parent")
    if parent is not None and (isinstance(parent, bool) or not isinstance(parent, int)):
        raise ValueError(f"parent must be an index or null, not {parent!r}")
    tables = raw.get("result") or {}
    if not isinstance(tables, Mapping):
        raise ValueError(f"result must be an object with the tables train and test, not {reprlib.repr(tables)}")
    return Published(
        index=index,
        name=_text(raw, "name_new") or _text(raw, "name") or f"record {index}",
        parent=parent,
        score=_finite(raw.get("score"), "score"),
        program=_text(raw, "program"),
        motivation=_text(raw, "motivation"),
        summary=_text(raw, "summary"),
        parameters=_parameters(raw.get("parameters")),
        curve=tuple((int(float(step)), loss) for step, loss in _cells(tables, "train") if _STEP.fullmatch(step)),
        benchmarks=dict(_cells(tables, "test")),
    )


def _text(raw: Mapping[str, object], name: str) -> str:
    """The text of a field, empty if it is absent or null."""
    value = "" if raw.get(name) is None else raw[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {reprlib.repr(value)}")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name} holds half of a surrogate pair, which is no character")
    return value


def _require_storable(record: Published) -> None:
    """Raises ValueError if the record does not fit into an event, which must be known before the first is published."""
    size = len(record.program.encode())
    event = events_pb2.Event(id="r" * _ENVELOPE_BYTES)
    without_program = candidate_of("", replace(record, program=""))  # whose fingerprint takes long
    event.candidate_imported.record.CopyFrom(without_program)
    fit(event, MAX_EVENT_BYTES - size)
    if size + event.ByteSize() > MAX_EVENT_BYTES:
        raise ValueError(f"program has {size} bytes; an event of {MAX_EVENT_BYTES} bytes cannot hold it")


def _finite(value: object, field_name: str) -> float | None:
    """A number, None for nan and null."""
    if value is None:
        return None
    too_large = isinstance(value, int) and abs(value) > sys.float_info.max
    if too_large or isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{field_name} must be a number, not {reprlib.repr(value)}")
    return float(value) if math.isfinite(value) else None


def _parameters(value: object) -> int | None:
    """A count as in "495.73M"; None if it is absent."""
    if value in (None, ""):
        return None
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d*)?)\s*([KMB]?)\s*", str(value), re.IGNORECASE | re.ASCII)
    if match is None or float(match[1]) * _UNITS[match[2].upper()] >= 2**63:
        raise ValueError(f"parameters must look like 495.73M, not {reprlib.repr(value)}")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def _cells(tables: Mapping[str, object], name: str) -> list[tuple[str, float]]:
    """The columns of a one-row CSV table; nan and empty cells are skipped."""
    try:
        rows = [row for row in csv.reader(_text(tables, name).splitlines()) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{name} is not a CSV table: {error}") from None
    if len(rows) < 2:
        return []
    cells = []
    for title, cell in zip(rows[0][1:], rows[1][1:], strict=False):
        try:
            value = float(cell)
        except ValueError:
            if cell.strip():
                raise ValueError(f"{name}: the cell {cell!r} under {title!r} is not a number") from None
            continue
        if math.isfinite(value):
            cells.append((title.strip(), value))
    return cells


def _sound(records: Mapping[int, Published], problems: list[str]) -> dict[int, Published]:
    """The records without orphans, cycles and their descendants."""
    sound = dict(records)
    while (flaws := lineage.flaws(_parents(sound))).any:
        for index in map(int, flaws.orphans):
            parent = sound[index].parent
            problems.append(f"record {index}: its parent {parent} is {'skipped' if parent in records else 'unknown'}")
        problems += [f"record {index} descends from itself" for index in flaws.cyclic]
        for index in map(int, (*flaws.orphans, *flaws.cyclic)):
            del sound[index]
    return sound


SERVICE = "store"
MAX_CONCURRENT = 64
STAGE = "explore"
MOMENT = datetime(2025, 7, 1, tzinfo=UTC)  # fixed, so that the same files always give the same events


def events_of(run: str, records: Sequence[Published], source: str) -> list[events_pb2.Event]:
    """run.started of a run without seats, and candidate.imported for each record."""
    started = first(run, "started", "console")
    started.time.FromDatetime(MOMENT)
    started.run_started.settings.CopyFrom(
        events_pb2.RunSettings(scale=STAGE, mind="imported", seats=0, baselines=["imported"], fitness="code")
    )
    started.run_started.note = f"imported from {source}"
    cause, events = Cause.published(started), [started]
    for published in records:
        record = candidate_of(run, published)
        event = follow(cause, "imported", SERVICE, 1, record.id)
        event.time.FromDatetime(MOMENT)
        imported = events_pb2.CandidateImported(source=source, index=published.index, record=record)
        event.candidate_imported.CopyFrom(imported)
        events.append(event)
    return events


def candidate_of(run: str, published: Published) -> pb.Candidate:
    """A published record as a candidate; absent fields stay unset."""
    record = pb.Candidate(
        id=candidate_id(published.index), run=run, kind=pb.KIND_IMPORTED, state=pb.STATE_ARCHIVED, stage=STAGE,
        request=pb.Request(number=published.index, mind="imported"),
    )  # fmt: skip
    record.proposal.CopyFrom(
        pb.Proposal(
            name=published.name,
            motivation=published.motivation,
            program=published.program,
            parent="" if published.parent is None else candidate_id(published.parent),
            structure=_structure(published.program),
            mind="imported",
        )
    )
    if published.curve or published.benchmarks or published.parameters is not None:
        record.training.CopyFrom(_training(published))
    if published.score is not None:
        record.verdict.fitness.CopyFrom(pb.Fitness(version="code", value=published.score))
    if published.summary:
        record.analysis.results = published.summary
    return record


async def publish_all(bus: Bus, events: Sequence[events_pb2.Event]) -> int:
    """Publish the first event, then the others concurrently; returns the last sequence."""
    last = await bus.publish(events[0])
    for start in range(1, len(events), MAX_CONCURRENT):
        sequences = await asyncio.gather(*(bus.publish(event) for event in events[start : start + MAX_CONCURRENT]))
        last = max(last, *sequences)
    return last


def _training(published: Published) -> pb.Training:
    seed = pb.SeedResult(
        curve=[pb.CurvePoint(step=step, train_loss=loss) for step, loss in published.curve],
        scores=[
            pb.TaskScore(
                task=task, metric="perplexity" if "ppl" in task or "perplexity" in task else "acc", value=value
            )
            for task, value in published.benchmarks.items()
        ],
        measurements=pb.Measurements(parameters=published.parameters or 0),
    )
    # The published curve is the training loss; held-out losses were not published.
    return pb.Training(seeds=[seed], benchmark=published.mean_accuracy)


def _structure(program: str) -> str:
    try:
        return fingerprint(program).digest if program else ""
    except ValueError:
        return ""
