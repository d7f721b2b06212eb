"""Exports a run as its log, as tables, or in the format of the published archive, and reads exported logs again."""

import base64
import contextlib
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC
from pathlib import Path
from types import ModuleType

from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.message import DecodeError

from services.chassis.bus import Bus, Logged
from services.chassis.bus.subjects import fact_of, subject_of
from services.chassis.errors import NotPossible, SettingsError, sentence
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2


def write_log(logged: Sequence[Logged], path: Path) -> None:
    """Write the lines of a log, compressed if the path ends in .gz.

    An existing file is replaced only by a longer export of the same log. Raises SettingsError for another file, and
    OSError with the path, leaving no part of the log.
    """
    lines = log_lines(logged)
    content = "".join(f"{line}\n" for line in lines).encode()
    packed = gzip.compress(content, mtime=0) if path.suffix == ".gz" else content
    if path.exists() and not path.is_file():  # such as /dev/stdout
        path.write_bytes(packed)
        return
    if path.exists() and (bodies := _bodies(path)) != [_end_of(line) for line in lines[: len(bodies)]]:
        raise SettingsError(f"{path} exists already and is not an earlier export of this run: choose another --out.")
    incomplete = path.with_name(f"{path.name}.incomplete")
    try:
        incomplete.write_bytes(packed)
        incomplete.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            incomplete.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def _bodies(path: Path) -> list[str]:
    """The bodies in the lines of a file, as far as they are those of a log."""
    content = path.read_bytes()
    if content and path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            content = b"no log"
    return [_end_of(line) for line in content.decode(errors="replace").splitlines()]


def _end_of(line: str) -> str:
    """The end of a line: the readable event before it may differ in the order of its maps."""
    return line.rpartition('"body": ')[2]


def log_lines(logged: Sequence[Logged]) -> list[str]:
    """One JSON object per message: the readable event, if it is one, and the exact bytes."""
    lines = []
    for message in logged:
        try:
            event = MessageToDict(events_pb2.Event.FromString(message.body), preserving_proto_field_name=True)
        except (DecodeError, SerializeToJsonError):  # the latter for a time out of range
            event = None
        body = base64.b64encode(message.body).decode()
        line = {"sequence": message.sequence, "subject": message.subject, "event": event, "body": body}
        lines.append(json.dumps(line, ensure_ascii=False))
    return lines


def write_parquet(records: Sequence[pb.Candidate], logged: Sequence[Logged], path: Path) -> None:
    """Write a table of candidates to `path`, and one of events to `log_path(path)`. Raises NotPossible without
    pyarrow."""
    pyarrow = with_parquet()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([_row(record) for record in records]), path)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([_event_row(message) for message in logged]), log_path(path))


def with_parquet() -> ModuleType:
    """The module pyarrow, with pyarrow.parquet imported. Raises NotPossible if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise NotPossible("tables need pyarrow: pip install 'asi-arch[parquet]', or use --format jsonl") from None
    module_type: ModuleType = pyarrow
    return module_type


def log_path(path: Path) -> Path:
    """The table of events that belongs to a table of candidates: r1.events.parquet for r1.parquet."""
    return path.with_suffix(f".events{path.suffix}")


_PUBLISHED = {"tree.json", "106.json"}


def write_published(records: Sequence[pb.Candidate], folder: Path) -> None:
    """Write `tree.json` and `106.json` as in the published archive; the index is the candidate's number.

    Raises SettingsError for a folder with other files.
    """
    if folder.exists() and not (folder.is_dir() and {file.name for file in folder.iterdir()} <= _PUBLISHED):
        raise SettingsError(f"{folder} exists already and holds other files: choose another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    index = {record.id: record.request.number for record in records}
    tree = [_node(record, index) for record in records]
    (folder / "tree.json").write_text(json.dumps({"total_records": len(tree), "results": tree}, ensure_ascii=False))
    details = [_details(record, index) for record in records]
    (folder / "106.json").write_text(json.dumps(details, ensure_ascii=False))


def _node(record: pb.Candidate, index: dict[str, int]) -> dict[str, object]:
    return {
        "index": record.request.number,
        "name": record.proposal.name,
        "parent": index.get(record.proposal.parent),
        "score": record.verdict.fitness.value if record.verdict.HasField("fitness") else None,
    }


def _details(record: pb.Candidate, index: dict[str, int]) -> dict[str, object]:
    seed = record.training.seeds[0] if record.training.seeds else pb.SeedResult()
    parameters = seed.measurements.parameters
    return {
        **_node(record, index),
        "program": record.proposal.program,
        "motivation": record.proposal.motivation,
        "summary": record.analysis.results,
        "parameters": f"{parameters / 1e6:.6f}M" if parameters else "",
        "result": {
            "train": _csv(record.proposal.name, [(str(point.step), point.train_loss) for point in seed.curve]),
            "test": _csv(record.proposal.name, [(score.task, score.value) for score in seed.scores]),
        },
    }


def _csv(name: str, cells: Sequence[tuple[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["", *(title for title, _ in cells)])
    writer.writerow([name, *(repr(value) for _, value in cells)])
    return text.getvalue()


def _event_row(logged: Logged) -> dict[str, object]:
    try:
        event = events_pb2.Event.FromString(logged.body)
    except DecodeError:
        event = events_pb2.Event()
    return {
        "sequence": logged.sequence,
        "id": event.id or None,
        "fact": fact_of(event) if event.WhichOneof("fact") else None,
        "candidate": event.candidate or None,
        "service": event.service or None,
        "time": event.time.ToDatetime(UTC) if event.HasField("time") else None,
        "body": logged.body,
    }


def _row(record: pb.Candidate) -> dict[str, object]:
    training, verdict = record.training, record.verdict
    return {
        "id": record.id,
        "run": record.run,
        "name": record.proposal.name,
        "parent": record.proposal.parent or None,
        "kind": pb.Kind.Name(record.kind).removeprefix("KIND_").lower(),
        "state": pb.State.Name(record.state).removeprefix("STATE_").lower(),
        "stage": record.stage,
        "loss": training.loss if training.HasField("loss") else None,
        "benchmark": training.benchmark if training.HasField("benchmark") else None,
        "judge": verdict.raw if verdict.HasField("raw") else None,
        "fitness": verdict.fitness.value if verdict.HasField("fitness") else None,
        "parameters": training.seeds[0].measurements.parameters if training.seeds else None,
        "components": list(record.proposal.components),
        "moves": list(record.proposal.moves),
        "motivation": record.proposal.motivation,
        "program": record.proposal.program,
        "rejection": record.rejection.reason if record.HasField("rejection") else None,
    }


def exported_bodies(path: Path, kind: str, skip_bad: bool) -> tuple[str, list[bytes], tuple[str, ...]]:
    """The run, its events' bodies, and the problems of skipped ones, of a file that `export --format` wrote as `kind`.

    Raises SettingsError naming an unreadable line or row, unless `skip_bad`, and NotPossible for a table without
    pyarrow.
    """
    bodies: list[bytes] = []
    skipped: list[str] = []
    run = ""
    for location, encoded in _table(path) if kind == "parquet" else _lines(path):
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


def lines_of(path: Path) -> list[str]:
    """The lines of an exported log, compressed (.gz) or not; none of an empty one. Raises SettingsError if it is not
    text."""
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise SettingsError(f"{path} is not a log that `export --format jsonl` wrote: {sentence(error)}.") from None
    # Not splitlines: JSON strings may contain U+2028 and similar characters.
    return text.rstrip("\n").split("\n") if text.strip() else []


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines_of(path), 1):
        yield f"line {number}", line


def _body(line: str) -> bytes:
    """The bytes of the event in a line. Raises ValueError if there are none, RecursionError for deep nesting."""
    content = json.loads(line)
    if not isinstance(content, dict) or not isinstance(content.get("body"), str):
        raise ValueError("it has no field `body` with text")
    return base64.b64decode(content["body"], validate=True)


def _table(path: Path) -> Iterator[tuple[str, bytes]]:
    """The rows of a table of events, or of the table of events that belongs to a table of candidates."""
    pyarrow = with_parquet()
    events = log_path(path)
    if not events.exists():
        events = path
    try:
        bodies = pyarrow.parquet.read_table(events, columns=["sequence", "body"]).sort_by("sequence")["body"]
    except FileNotFoundError:
        raise SettingsError(f"there is no file {path}.") from None
    except (pyarrow.ArrowException, KeyError) as error:
        raise SettingsError(f"{events} is not a table of events of `export --format parquet`: {error}") from None
    for row, body in enumerate(bodies.to_pylist(), 1):
        yield f"row {row}", body


async def publish_bodies(bus: Bus, bodies: Iterable[bytes]) -> int:
    """Publish exported events unchanged, in order; returns the last sequence."""
    last = 0
    for body in bodies:
        event = events_pb2.Event.FromString(body)
        last = await bus.publish_body(subject_of(event), event.id, body)
    return last
