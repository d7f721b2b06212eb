"""Published records and exported logs as events of a run of their own."""

import asyncio
import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf.message import DecodeError

from services.chassis.bus import Bus
from services.chassis.bus.subjects import subject_of
from services.chassis.errors import SettingsError
from services.chassis.events import Cause, first, follow
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain.structure import fingerprint
from services.store.interchange.exporting import log_path, with_parquet
from services.store.interchange.published import Published

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
    return [started, *(_imported(run, one, cause, source) for one in records)]


def candidate_of(run: str, one: Published) -> pb.Candidate:
    """A published record as a candidate; what it does not hold stays unset."""
    record = pb.Candidate(
        id=candidate_id(one.index), run=run, kind=pb.KIND_IMPORTED, state=pb.STATE_ARCHIVED, stage=STAGE,
        request=pb.Request(number=one.index, mind="imported"),
    )  # fmt: skip
    record.proposal.CopyFrom(
        pb.Proposal(
            name=one.name,
            motivation=one.motivation,
            program=one.program,
            parent="" if one.parent is None else candidate_id(one.parent),
            structure=_structure(one.program),
            mind="imported",
        )
    )
    if one.curve or one.benchmarks or one.parameters is not None:
        record.training.CopyFrom(_training(one))
    if one.score is not None:
        record.verdict.fitness.CopyFrom(pb.Fitness(version="code", value=one.score))
    if one.summary:
        record.analysis.results = one.summary
    return record


def candidate_id(index: int) -> str:
    """Ids that sort by index up to a million."""
    return f"c{index:06d}"


async def publish_all(bus: Bus, events: Sequence[events_pb2.Event]) -> int:
    """Publish the first event, then the others many at a time; the sequence of the last."""
    last = await bus.publish(events[0])
    for start in range(1, len(events), AT_ONCE):
        sequences = await asyncio.gather(*(bus.publish(one) for one in events[start : start + AT_ONCE]))
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


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is no text as `export --format jsonl` writes it: {error}.") from None
    for number, line in enumerate(lines, 1):
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


def _imported(run: str, one: Published, cause: Cause, source: str) -> events_pb2.Event:
    record = candidate_of(run, one)
    event = follow(cause, "imported", SERVICE, 1, record.id)
    event.time.FromDatetime(MOMENT)
    event.candidate_imported.CopyFrom(events_pb2.CandidateImported(source=source, index=one.index, record=record))
    return event


def _training(one: Published) -> pb.Training:
    seed = pb.SeedResult(
        curve=[pb.CurvePoint(step=step, train_loss=loss) for step, loss in one.curve],
        scores=[
            pb.TaskScore(
                task=task, metric="perplexity" if "ppl" in task or "perplexity" in task else "acc", value=value
            )
            for task, value in one.benchmarks.items()
        ],
        measurements=pb.Measurements(parameters=one.parameters or 0),
    )
    # The published curve is the training loss: there is no held-out one.
    return pb.Training(seeds=[seed], benchmark=one.mean_accuracy)


def _structure(program: str) -> str:
    try:
        return fingerprint(program).digest if program else ""
    except ValueError:
        return ""
