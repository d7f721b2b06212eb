"""All candidates of a run as rows, kept current while a page looks at them: every view is drawn from these."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from statistics import fmean
from typing import TypedDict

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict

from services.archive.scoring import measures_of
from services.chassis import tasks
from services.chassis.errors import NotFound, Transient
from services.console.rows import kind_name, state_name
from services.console.web.live import ArchiveConnection, Stub
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2

PAGE = 500
SETTLE_SECONDS = 0.25
"""Changes that come closer together than this are read in one go."""
RETRY_SECONDS = 1.0
ENDED = (candidate_pb2.STATE_UNSPECIFIED, candidate_pb2.STATE_ARCHIVED, candidate_pb2.STATE_REJECTED)
MOVING = [state for state in candidate_pb2.State.values() if state not in ENDED]


class WebRow(TypedDict, total=False):
    """One candidate. A key that is missing was not measured. Units as in `rows.Row`; scores by task, 0 to 1."""

    id: str
    number: int
    name: str
    parent: str
    kind: str
    stage: str
    state: str
    loss: float
    loss_stderr: float
    train_loss: float
    benchmark: float
    benchmark_stderr: float
    judge: float
    fitness: float
    fitness_low: float
    fitness_high: float
    parameters: int
    seconds: float
    tokens_per_second: float
    peak_memory: int
    flops: float
    state_size: float
    stopped: str
    seeds: int
    components: list[str]
    moves: list[str]
    scores: dict[str, float]
    worker: str
    outcome: str
    reason: str


def web_row(record: candidate_pb2.Candidate) -> WebRow:
    """A candidate's row, from a slim record."""
    training, verdict = record.training, record.verdict
    row = WebRow(
        id=record.id,
        number=record.request.number,
        name=record.proposal.name or record.request.baseline or record.id,
        kind=kind_name(record.kind),
        stage=record.stage,
        state=state_name(record.state),
    )
    if record.proposal.parent:
        row["parent"] = record.proposal.parent
    if training.HasField("loss"):
        row["loss"] = training.loss
    if training.HasField("loss_stderr"):
        row["loss_stderr"] = training.loss_stderr
    if training.HasField("benchmark"):
        row["benchmark"] = training.benchmark
    if training.HasField("benchmark_stderr"):
        row["benchmark_stderr"] = training.benchmark_stderr
    if verdict.HasField("raw"):
        row["judge"] = verdict.raw
    if verdict.HasField("fitness"):
        row["fitness"] = verdict.fitness.value
        if verdict.fitness.HasField("interval"):
            row["fitness_low"], row["fitness_high"] = verdict.fitness.interval.low, verdict.fitness.interval.high
    if training.seeds:
        _add_measurements(row, training)
        measures = measures_of(record)
        if (flops := measures["flops"]) is not None:
            row["flops"] = flops
        if (state_size := measures["state"]) is not None:
            row["state_size"] = state_size
    if components := list(record.analysis.components or record.proposal.components):
        row["components"] = components
    if record.proposal.moves:
        row["moves"] = list(record.proposal.moves)
    if training.worker:
        row["worker"] = training.worker
    if record.HasField("discovery"):
        row["outcome"] = record.discovery.outcome or ("confirmed" if record.discovery.confirmed else "undecided")
    if record.HasField("rejection"):
        row["reason"] = f"{record.rejection.stage}: {record.rejection.reason}"
    return row


def _add_measurements(row: WebRow, training: candidate_pb2.Training) -> None:
    measured = [seed.measurements for seed in training.seeds]
    row["seeds"] = len(measured)
    if measured[0].parameters:
        row["parameters"] = measured[0].parameters
    if seconds := sum(measurement.seconds for measurement in measured):
        row["seconds"] = seconds
    if speeds := [
        measurement.tokens_per_second for measurement in measured if measurement.HasField("tokens_per_second")
    ]:
        row["tokens_per_second"] = fmean(speeds)
    if memory := [
        measurement.peak_memory_bytes for measurement in measured if measurement.HasField("peak_memory_bytes")
    ]:
        row["peak_memory"] = max(memory)
    if stopped := " ".join(seed.stopped for seed in training.seeds if seed.HasField("stopped")):
        row["stopped"] = stopped
    last = [
        seed.curve[-1].train_loss for seed in training.seeds if seed.curve and seed.curve[-1].HasField("train_loss")
    ]
    if last:
        row["train_loss"] = fmean(last)
    scores: dict[str, list[float]] = {}
    for seed in training.seeds:
        for score in seed.scores:
            scores.setdefault(score.task, []).append(score.value)
    if scores:
        row["scores"] = {task: fmean(values) for task, values in scores.items()}


class Change(TypedDict, total=False):
    """What a page is told: the status, the rows that differ from what it has, or why nothing is known now."""

    epoch: str
    version: int
    status: dict[str, object]
    rows: list[WebRow]
    lost: str


class RunTable:
    """The rows of one run. While `follow` runs, they are read again whenever the archive says that the run changed."""

    def __init__(self, archive: ArchiveConnection, run: str) -> None:
        self._archive = archive
        self.run = run
        self._epoch = secrets.token_hex(4)  # rows are numbered by this process: another one starts anew
        self._rows: dict[str, WebRow] = {}
        self._changed_in: dict[str, int] = {}
        self._version = 0
        self._status: pb.RunStatus | None = None
        self._lost = ""
        self._moved = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Lock()
        self._fresh = False

    async def whole(self) -> Change:
        """The status and all rows. Raises AioRpcError where the archive does not answer."""
        async with self._ready:
            if not self._fresh:
                await self._take(await self._archive.ask("GetRun", pb.RunRequest(run=self.run)))
                self._fresh = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())
        return self._since(0)

    async def changes(self, epoch: str, version: int) -> AsyncIterator[Change | None]:
        """What is newer than `version` now, then every further change; None after a quiet while."""
        await self.whole()
        seen = version if epoch == self._epoch else 0
        status: pb.RunStatus | None = None
        lost = ""
        while True:
            if self._version > seen or self._status is not status or self._lost != lost:
                change = self._since(seen)
                seen, status, lost = self._version, self._status, self._lost
                yield change
                continue
            async with self._moved:
                try:
                    async with asyncio.timeout(10):  # `wait_for` would wait in a task of its own, and lose the lock
                        await self._moved.wait()
                except TimeoutError:
                    quiet = True
                else:
                    quiet = False
            if quiet:
                yield None

    async def close(self) -> None:
        """Stop following the run."""
        if self._task is not None:
            await tasks.end(self._task)

    def _since(self, version: int) -> Change:
        change = Change(epoch=self._epoch, version=self._version)
        if self._status is not None:
            change["status"] = plain_status(self._status)
        if self._lost:
            change["lost"] = self._lost
        change["rows"] = [row for key, row in self._rows.items() if self._changed_in[key] > version]
        return change

    async def _follow(self) -> None:
        """Watch the run for as long as the process lives: an archive that is away is waited for."""
        while True:
            stub: Stub | None = None
            try:
                stub = await self._archive.stub()
                async for status in stub.WatchRun(pb.RunRequest(run=self.run), timeout=24 * 3600):
                    await self._take(status)
                    await asyncio.sleep(SETTLE_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    await self._tell(f"the archive does not answer: {error.details() or error.code().name}")
            except (NotFound, Transient) as error:
                await self._tell(str(error))
            if stub is not None:
                await self._archive.lost(stub)
            await asyncio.sleep(RETRY_SECONDS)

    async def _tell(self, lost: str) -> None:
        async with self._moved:
            self._lost = lost
            self._moved.notify_all()

    async def _take(self, status: pb.RunStatus) -> None:
        """Read what changed: candidates under way, those that were, and all where their number does not add up."""
        before = self._status
        if before is None or before.phase != status.phase or not self._rows:
            records = await self._listed(pb.ListCandidatesRequest(run=self.run, slim=True))
        elif before.sequence == status.sequence:
            records = []
        else:
            records = await self._listed(pb.ListCandidatesRequest(run=self.run, slim=True, states=MOVING))
            moving = {record.id for record in records}
            were = [key for key, row in self._rows.items() if row["state"] not in ("archived", "rejected")]
            records += await self._named([key for key in were if key not in moving])
            if len(self._rows.keys() | moving) != sum(status.states.values()) or before.climbing or status.climbing:
                records = await self._listed(pb.ListCandidatesRequest(run=self.run, slim=True))
        async with self._moved:
            self._apply(records)
            self._status, self._lost = status, ""
            self._moved.notify_all()

    def _apply(self, records: Iterable[candidate_pb2.Candidate]) -> None:
        fresh = [row for row in map(web_row, records) if self._rows.get(row["id"]) != row]
        if fresh:
            self._version += 1
        for row in fresh:
            self._rows[row["id"]] = row
            self._changed_in[row["id"]] = self._version

    async def _listed(self, request: pb.ListCandidatesRequest) -> list[candidate_pb2.Candidate]:
        request.page_size = PAGE
        found: list[candidate_pb2.Candidate] = []
        while True:
            reply = await self._archive.ask("ListCandidates", request)
            found += reply.candidates
            if not reply.next_page_token:
                return found
            request.page_token = reply.next_page_token

    async def _named(self, ids: list[str]) -> list[candidate_pb2.Candidate]:
        found: list[candidate_pb2.Candidate] = []
        for start in range(0, len(ids), PAGE):
            request = pb.GetCandidatesRequest(run=self.run, candidates=ids[start : start + PAGE])
            found += (await self._archive.ask("GetCandidates", request)).candidates
        return found


def plain_status(status: pb.RunStatus) -> dict[str, object]:
    """A run's status as JSON; what has no value is left out only where its absence means something."""
    plain: dict[str, object] = MessageToDict(
        status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return plain
