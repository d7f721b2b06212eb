"""Writes a run as its log or as tables, and reads files of logs, tables and records."""

import base64
import contextlib
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC
from itertools import count, repeat
from pathlib import Path
from types import ModuleType

from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.message import DecodeError

from services.archive.scoring import program_of
from services.chassis.bus import Logged
from services.chassis.bus.subjects import fact_of
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
    try:
        content = unpacked(path)
    except ValueError:
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
        "parameters": training.seeds[0].measurements.parameters or None if training.seeds else None,
        "components": list(record.proposal.components),
        "moves": list(record.proposal.moves),
        "motivation": record.proposal.motivation,
        "program": program_of(record),
        "rejection": record.rejection.reason if record.HasField("rejection") else None,
    }


def lines_of(path: Path) -> Iterator[str]:
    """The lines of an exported log, compressed or not, without empty ones at its end.

    Raises SettingsError if it is not text, or too much of it.
    """
    empty = total = 0
    try:
        with _opened(path) as (source, limit):
            # Not splitlines: JSON strings may contain U+2028 and similar characters.
            for number in count(1):
                line = source.readline(MAX_BYTES + 1)
                total += len(line)
                if len(line) > MAX_BYTES:
                    raise ValueError(f"its line {number} is longer than {MAX_BYTES >> 20} MiB")
                _require_below(total, limit)
                if not line:
                    return
                if text := line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"):
                    yield from repeat("", empty)
                    yield text
                empty = 0 if text else empty + 1
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} is not a log that `export --format jsonl` wrote: {sentence(error)}.") from None


def unpacked(path: Path) -> bytes:
    """The content of a file, decompressed if it was packed with gzip. Raises OSError, ValueError if it is damaged."""
    with _opened(path) as (source, limit):
        content = bytearray()
        while chunk := source.read(1 << 20):
            content += chunk
            _require_below(len(content), limit)
        return bytes(content)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[io.BufferedIOBase, int]]:
    """A file, decompressed while it is read, and how many bytes of it to read at most.

    Without a limit a small file could fill the memory: gzip packs zeros a thousand times smaller, a log a few times.
    """
    with path.open("rb") as file:
        source = gzip.GzipFile(fileobj=file) if file.peek(2).startswith(_GZIP) else file
        try:
            size = path.stat().st_size if path.is_file() else 1 << 50  # a pipe tells no size
            yield source, max(MAX_BYTES, MAX_RATIO * size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"its compression is damaged: {error}") from None


def _require_below(size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"it holds more than {limit >> 20} MiB, over {MAX_RATIO} times its size")


MAX_BYTES, MAX_RATIO = 64 << 20, 100
"""A line has up to MAX_BYTES; a file up to as many, or up to MAX_RATIO times its size on disk if that is more."""
_GZIP = b"\x1f\x8b"
_NUMBERS = {"$numberInt": int, "$numberLong": int, "$numberDouble": float}
"""How MongoDB's Extended JSON writes numbers, as in {"$numberDouble": "NaN"}."""


def values_of(path: Path) -> Iterator[tuple[str, object]]:
    """The values of a file of JSON or BSON, compressed or not, each with its place, such as "line 3".

    Reads what mongoexport (a list, or one value after the other) and mongodump (.bson) write, in the Unicode encoding
    that the first bytes show. Raises OSError, and ValueError or RecursionError after the values before the fault.
    """
    content = unpacked(path)
    if path.name.removesuffix(".gz").endswith(".bson"):
        import bson  # installed with motor

        # Dates beyond the year 9999 are valid in BSON, but not in Python.
        dates = bson.DatetimeConversion.DATETIME_AUTO
        options: bson.CodecOptions[dict[str, object]] = bson.CodecOptions(datetime_conversion=dates)
        try:
            for number, document in enumerate(bson.decode_iter(content, options), 1):
                yield f"document {number}", document
        except bson.InvalidBSON as error:
            raise ValueError(f"its BSON is damaged: {error}") from None
        return
    text = content.decode(json.detect_encoding(content))
    decoder = json.JSONDecoder(object_hook=_plain)
    line, end = 1, 0
    while match := re.compile(r"\S").search(text, end):
        line += text.count("\n", end, match.start())
        value, end = decoder.raw_decode(text, match.start())
        yield f"line {line}", value
        line += text.count("\n", match.start(), end)


def _plain(fields: dict[str, object]) -> object:
    """An object of JSON, or the number that Extended JSON writes as this object. Raises ValueError for another text."""
    name, value = next(iter(fields.items()), ("", None))
    return _NUMBERS[name](value) if len(fields) == 1 and name in _NUMBERS and isinstance(value, str) else fields


def table_of(path: Path) -> Iterator[tuple[str, bytes]]:
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
