"""Published records and exported logs as events of a run of their own.

The published archive of ASI-Arch is `tree.json` and `106.json` (any .json list of records). Its records are known by
their index; names repeat. A cell that says nan was not measured and is left out. A parent that does not exist, a cycle
or an index that comes twice is refused with the offending indices, before anything is imported.
"""

import ast
import asyncio
import base64
import csv
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf.message import DecodeError

from services.chassis.bus import Bus
from services.chassis.bus.subjects import subject_of
from services.chassis.errors import SettingsError
from services.chassis.events import Cause, first, follow
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain import lineage
from services.domain.structure import fingerprint
from services.store.exporting import log_path, with_parquet

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_AVERAGED = ("arc_challenge", "arc_easy", "boolq", "hellaswag", "piqa", "social_iqa", "winogrande")
"""The tasks whose accuracies the paper's tables average."""


class BadArchive(ValueError):  # noqa: N818
    """The files cannot be imported as they are; the message names what is wrong and where."""


@dataclass(frozen=True)
class Published:
    """One record. Absent is None or empty; `curve` is (step, training loss), `benchmarks` task → value."""

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
        known = [value for value in values if value is not None and 0 <= value <= 1]
        return math.fsum(known) / len(known) if len(known) == len(_AVERAGED) else None


@dataclass(frozen=True)
class Archive:
    """Records with parents before children, and what was left out, a sentence each."""

    records: tuple[Published, ...]
    left_out: tuple[str, ...]


def read(path: Path, skip_bad: bool = False, detach: bool = False) -> Archive:
    """Read a folder with `tree.json` and a file of details, or one of the two files.

    With `detach` a record whose parent is in neither becomes a root: the published details alone lack most
    parents. Raises BadArchive; with `skip_bad` bad records are left out instead and listed.
    """
    raw = _raw_records(path)
    problems: list[str] = []
    parsed = _unique(_parsed(raw, problems), problems)
    if detach:
        parsed = {
            index: replace(record, parent=record.parent if record.parent in parsed else None)
            for index, record in parsed.items()
        }
    sound = _sound(parsed, problems)
    if problems and not skip_bad:
        more = f" (and {len(problems) - 10} more)" if len(problems) > 10 else ""
        missing = any(record.parent not in (None, *parsed) for record in parsed.values())
        hint = "--detach makes roots of records whose parent is missing, " if missing else ""
        raise BadArchive(
            "; ".join(problems[:10]) + more + f". Nothing was imported; {hint}--skip-bad leaves the bad ones out."
        )
    if not sound:
        raise BadArchive(f"{path} holds no record that can be imported.")
    return Archive(tuple(sound[index] for index in lineage_order(sound)), tuple(problems))


def read_programs(folder: Path, skip_bad: bool = False) -> Archive:
    """The Python files of a folder as records without scores, named by their files; docstrings are motivations.

    Raises BadArchive where a file is no Python program, unless such are left out with `skip_bad`.
    """
    records, problems = list[Published](), list[str]()
    for path in sorted(folder.glob("*.py")):
        try:
            program = path.read_text(encoding="utf-8-sig")
            motivation = ast.get_docstring(ast.parse(program)) or ""
        except (SyntaxError, ValueError) as error:
            problems.append(f"{path.name} is no Python program: {error}")
            continue
        records.append(Published(len(records) + 1, path.stem, None, None, program, motivation))
    if problems and not skip_bad:
        raise BadArchive("; ".join(problems[:10]) + ". Nothing was imported; --skip-bad takes the rest.")
    if not records:
        raise BadArchive(f"{folder} holds no Python program.")
    return Archive(tuple(records), tuple(problems))


def lineage_order(records: Mapping[int, Published]) -> list[int]:
    """Indices with every parent before its children, else in their own order."""
    depth = lineage.depths(
        {str(record.index): None if record.parent is None else str(record.parent) for record in records.values()}
    )
    return sorted(records, key=lambda index: (depth[str(index)], index))


def _raw_records(path: Path) -> list[dict[str, object]]:
    """All records of the files; those of the details file win over the tree's slim ones."""
    if not path.exists():
        raise BadArchive(f"there is no file or folder {path}")
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise BadArchive(f"{path} holds no .json file: it needs tree.json and the file of details")
    slim: list[dict[str, object]] = []
    detailed: list[dict[str, object]] = []
    for file in files:
        content = _json(file)
        results = content.get("results") if isinstance(content, dict) else content
        if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
            raise BadArchive(f'{file} is neither {{"results": [...]}} nor a list of records')
        (slim if isinstance(content, dict) else detailed).extend(results)
    known = {json.dumps(one.get("index")) for one in detailed}
    return [*(one for one in slim if json.dumps(one.get("index")) not in known), *detailed]


def _json(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArchive(f"{file} cannot be read as JSON: {error}") from None


def _parsed(raw: Iterable[dict[str, object]], problems: list[str]) -> list[Published]:
    records = []
    for place, one in enumerate(raw):
        try:
            records.append(_record(one))
        except ValueError as error:
            problems.append(f"record {one.get('index', f'number {place + 1}')}: {error}")
    return records


def _record(raw: Mapping[str, object]) -> Published:
    index = raw.get("index")
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise ValueError(f"index must be a whole number from 0, not {index!r}")
    parent = raw.get("parent")
    if parent is not None and (isinstance(parent, bool) or not isinstance(parent, int)):
        raise ValueError(f"parent must be an index or null, not {parent!r}")
    result = raw.get("result")
    tables = result if isinstance(result, Mapping) else {}
    return Published(
        index=index,
        name=str(raw.get("name_new") or raw.get("name") or f"record {index}"),
        parent=parent,
        score=_finite(raw.get("score"), "score"),
        program=str(raw.get("program") or ""),
        motivation=str(raw.get("motivation") or ""),
        summary=str(raw.get("summary") or ""),
        parameters=_parameters(raw.get("parameters")),
        curve=tuple((int(float(step)), loss) for step, loss in _cells(tables.get("train"), "train") if _is_step(step)),
        benchmarks=dict(_cells(tables.get("test"), "test")),
    )


def _finite(value: object, field_name: str) -> float | None:
    """A number, None for nan and null."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{field_name} must be a number, not {value!r}")
    return float(value) if math.isfinite(value) else None


def _parameters(value: object) -> int | None:
    """As in "495.73M"; None where it is not given."""
    if value in (None, ""):
        return None
    match = re.fullmatch(r"\s*([\d.]+)\s*([KMB]?)\s*", str(value), re.IGNORECASE)
    if match is None:
        raise ValueError(f"parameters must look like 495.73M, not {value!r}")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def _cells(text: object, name: str) -> list[tuple[str, float]]:
    """The columns of a one-row table whose cell is a number; nan and empty ones are left out."""
    if text in (None, ""):
        return []
    rows = [row for row in csv.reader(str(text).splitlines()) if any(cell.strip() for cell in row)]
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


def _is_step(title: str) -> bool:
    try:
        float(title)
    except ValueError:
        return False
    return True


def _unique(records: Iterable[Published], problems: list[str]) -> dict[int, Published]:
    found: dict[int, Published] = {}
    for record in records:
        if record.index in found:
            problems.append(f"index {record.index} comes twice ({found[record.index].name} and {record.name})")
        else:
            found[record.index] = record
    return found


def _sound(records: Mapping[int, Published], problems: list[str]) -> dict[int, Published]:
    """Without orphans and cycles, and without what descends from them."""
    kept = dict(records)
    while orphans := [one for one in kept.values() if one.parent is not None and one.parent not in kept]:
        for orphan in orphans:
            known = "left out" if orphan.parent in records else "unknown"
            problems.append(f"record {orphan.index}: its parent {orphan.parent} is {known}")
            del kept[orphan.index]
    for index in _cyclic(kept):
        problems.append(f"record {index} descends from itself")
        del kept[index]
    return _sound(kept, problems) if any(one.parent not in (None, *kept) for one in kept.values()) else kept


def _cyclic(records: Mapping[int, Published]) -> list[int]:
    """Records from which the way up never ends."""
    ends: dict[int, bool] = {}
    for start in records:
        way: list[int] = []
        here: int | None = start
        while here is not None and here not in ends and here not in way:
            way.append(here)
            here = records[here].parent
        fine = here is None or (here in ends and ends[here])
        ends.update(dict.fromkeys(way, fine))
    return [index for index, fine in ends.items() if not fine]


SERVICE = "store"
AT_ONCE = 64
STAGE = "explore"
# The same files give the same events, hence the same digest, whenever they are imported.
MOMENT = datetime(2025, 7, 1, tzinfo=UTC)


def events_of(run: str, records: Sequence[Published], source: str) -> list[events_pb2.Event]:
    """run.started for a run that gives out no seats, and candidate.imported for each record."""
    started = first(run, "started", "console")
    started.time.FromDatetime(MOMENT)
    started.run_started.settings.CopyFrom(
        events_pb2.RunSettings(scale=STAGE, mind="imported", seats=0, baselines=["imported"], fitness="code")
    )
    started.run_started.note = f"imported from {source}"
    cause = Cause.published(started)
    return [started, *(_imported(run, record, cause, source) for record in records)]


def candidate_of(run: str, published: Published) -> pb.Candidate:
    """A published record as a candidate; what it does not hold stays unset."""
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


def candidate_id(index: int) -> str:
    """Ids that sort by index up to a million."""
    return f"c{index:06d}"


async def publish_all(bus: Bus, events: Sequence[events_pb2.Event]) -> int:
    """Publish the first event, then the others many at a time; the sequence of the last."""
    last = await bus.publish(events[0])
    for start in range(1, len(events), AT_ONCE):
        sequences = await asyncio.gather(*(bus.publish(event) for event in events[start : start + AT_ONCE]))
        last = max(last, *sequences)
    return last


def exported_bodies(path: Path, kind: str, skip_bad: bool) -> tuple[str, list[bytes], tuple[str, ...]]:
    """The run, its events' bodies, and what was left out, of a file that `export --format` wrote as `kind`.

    What no version could read when it lay in the log cannot be read here either: it is left out with `skip_bad`.
    Raises SettingsError naming the line or row otherwise, so that nothing is half-imported, and NotPossible for a table
    without pyarrow.
    """
    bodies: list[bytes] = []
    left_out: list[str] = []
    run = ""
    for place, body in _table(path) if kind == "parquet" else _lines(path):
        try:
            event = events_pb2.Event.FromString(body)
            subject_of(event)
        except (DecodeError, ValueError, TypeError) as error:
            if not skip_bad:
                raise SettingsError(
                    f"{path}, {place} is not an exported event: {error}. With --skip-bad the rest is taken."
                ) from None
            left_out.append(f"{place}: {error}")
            continue
        run = run or event.run
        if event.run != run:
            raise SettingsError(f"{path}, {place} belongs to run {event.run}, and what stands before it to {run}.")
        bodies.append(body)
    if not bodies:
        raise SettingsError(f"{path} holds no event.")
    return run, bodies, tuple(left_out)


def lines_of(path: Path) -> list[str]:
    """The lines of an exported log, compressed (.gz) or not. Raises SettingsError for what is no text."""
    content = path.read_bytes()
    try:
        # Not splitlines: JSON leaves U+2028 and its like as they are, inside a text.
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8").rstrip("\n").split("\n")
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SettingsError(f"{path} is no text as `export --format jsonl` writes it: {error}.") from None


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    for number, line in enumerate(lines_of(path), 1):
        try:
            yield f"line {number}", base64.b64decode(json.loads(line)["body"], validate=True)
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{path}, line {number} is not an exported event: {error}.") from None


def _table(path: Path) -> Iterator[tuple[str, bytes]]:
    """Of a table of candidates, the table of events beside it."""
    pyarrow = with_parquet()
    beside = log_path(path)
    events = beside if beside.exists() else path
    try:
        bodies = pyarrow.parquet.read_table(events, columns=["sequence", "body"]).sort_by("sequence")["body"]
    except FileNotFoundError:
        raise SettingsError(f"there is no file {path}.") from None
    except (pyarrow.ArrowException, KeyError) as error:
        raise SettingsError(f"{events} is no table of events as `export --format parquet` writes it: {error}") from None
    for row, body in enumerate(bodies.to_pylist(), 1):
        yield f"row {row}", body


async def publish_bodies(bus: Bus, bodies: Iterable[bytes]) -> int:
    """Publish exported events byte by byte as they were, in order; the sequence of the last."""
    last = 0
    for body in bodies:
        event = events_pb2.Event.FromString(body)
        last = await bus.publish_body(subject_of(event), event.id, body)
    return last


def _imported(run: str, published: Published, cause: Cause, source: str) -> events_pb2.Event:
    record = candidate_of(run, published)
    event = follow(cause, "imported", SERVICE, 1, record.id)
    event.time.FromDatetime(MOMENT)
    event.candidate_imported.CopyFrom(events_pb2.CandidateImported(source=source, index=published.index, record=record))
    return event


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
    # The published curve is the training loss: there is no held-out one.
    return pb.Training(seeds=[seed], benchmark=published.mean_accuracy)


def _structure(program: str) -> str:
    try:
        return fingerprint(program).digest if program else ""
    except ValueError:
        return ""
