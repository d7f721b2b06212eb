"""All candidates of a run as rows, updated while a page is open; every view is drawn from them."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeAlias, TypedDict

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict

from services.archive import PAGE, all_candidates
from services.archive.scoring import task_means
from services.chassis import tasks
from services.chassis.errors import NotFound, Transient
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2
from services.report.claims import outcome_of
from services.report.rows import IN_FLIGHT, LONG_LABEL, final_train_loss, label_of
from services.report.rows import row as candidate_row
from services.web.live import ArchiveConnection, Stub

SETTLE_SECONDS = 0.25
"""Changes within this time are read together."""
RETRY_SECONDS = 1.0


SHARED = (
    "id", "parent", "kind", "stage", "state", "loss", "benchmark", "judge", "fitness", "fitness_low", "fitness_high",
    "flops", "state_size",
)  # fmt: skip
"""Values as in `rows.Row`."""


WebRow: TypeAlias = dict[str, Any]
"""One candidate, as `Row` of web/src/records.ts. Missing keys were not measured; scores by task, 0 to 1."""


def web_row(record: candidate_pb2.Candidate) -> WebRow:
    training, proposal, shared = record.training, record.proposal, candidate_row(record)
    measured = [seed.measurements for seed in training.seeds]
    values: WebRow = {name: shared[name] for name in SHARED} | {  # type: ignore[literal-required]
        "number": record.request.number,
        "name": label_of(record, LONG_LABEL),
        "loss_stderr": training.loss_stderr if training.HasField("loss_stderr") else None,
        "train_loss": final_train_loss(record),
        "benchmark_stderr": training.benchmark_stderr if training.HasField("benchmark_stderr") else None,
        "parameters": shared["parameters"] or None,
        "seconds": shared["seconds"] or None,
        "tokens_per_second": shared["speed"],
        "peak_memory": max((part.peak_memory_bytes for part in measured), default=0) or None,
        "stopped": " ".join(seed.stopped for seed in training.seeds if seed.HasField("stopped")) or None,
        "seeds": len(measured) or None,
        "components": list(record.analysis.components or proposal.components) or None,
        "moves": list(proposal.moves) or None,
        "scores": task_means(record) or None,
        "worker": training.worker or None,
        "outcome": outcome_of(record.discovery) if record.HasField("discovery") else None,
        "reason": f"{record.rejection.stage}: {record.rejection.reason}" if record.HasField("rejection") else None,
    }
    return {name: value for name, value in values.items() if value is not None}


class Change(TypedDict, total=False):
    """A message to a page: the status, the changed rows, or why the archive cannot be read."""

    epoch: str
    version: int
    status: dict[str, object]
    rows: list[WebRow]
    lost: str


class RunTable:
    """The rows of one run, read again whenever the archive reports a change."""

    def __init__(self, archive: ArchiveConnection, run: str) -> None:
        self._archive = archive
        self.run = run
        self._epoch = secrets.token_hex(4)  # versions are counted per process
        self._rows: dict[str, WebRow] = {}
        self._changed_in: dict[str, int] = {}
        self._version = 0
        self._status: pb.RunStatus | None = None
        self._lost = ""
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Lock()
        self._fresh = False

    async def snapshot(self) -> Change:
        """The status and all rows. Raises AioRpcError if the archive does not answer."""
        async with self._ready:
            if not self._fresh:
                await self._apply_status(await self._archive.call("GetRun", pb.RunRequest(run=self.run)))
                self._fresh = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())
        return self._since(0)

    async def changes(self, epoch: str, version: int) -> AsyncIterator[Change | None]:
        """Changes since `version`, then every further one; None after ten seconds without any."""
        await self.snapshot()
        sent_version = version if epoch == self._epoch else 0
        status: pb.RunStatus | None = None
        lost = ""
        while True:
            if self._version > sent_version or self._status is not status or self._lost != lost:
                change = self._since(sent_version)
                sent_version, status, lost = self._version, self._status, self._lost
                yield change
                continue
            async with self._changed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(10):  # `wait_for` would wait in a task of its own, and lose the lock
                        await self._changed.wait()
                    continue
            yield None

    async def close(self) -> None:
        if self._task is not None:
            await tasks.end(self._task)

    def _since(self, version: int) -> Change:
        change = Change(epoch=self._epoch, version=self._version)
        if self._status is not None:
            change["status"] = MessageToDict(
                self._status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
        if self._lost:
            change["lost"] = self._lost
        change["rows"] = [row for key, row in self._rows.items() if self._changed_in[key] > version]
        return change

    async def _follow(self) -> None:
        """Watch the run until cancelled; retries while the archive is unavailable."""
        while True:
            stub: Stub | None = None
            try:
                stub = await self._archive.stub()
                async for status in stub.WatchRun(pb.RunRequest(run=self.run), timeout=24 * 3600):
                    await self._apply_status(status)
                    await asyncio.sleep(SETTLE_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    await self._set_lost(f"the archive does not answer: {error.details() or error.code().name}")
            except (NotFound, Transient) as error:
                await self._set_lost(str(error))
            if stub is not None:
                await self._archive.lost(stub)
            await asyncio.sleep(RETRY_SECONDS)

    async def _set_lost(self, lost: str) -> None:
        async with self._changed:
            self._lost = lost
            self._changed.notify_all()

    async def _apply_status(self, status: pb.RunStatus) -> None:
        """Read the changes: candidates in flight, those that were, and all candidates if the counts disagree."""
        before = self._status
        if before is None or before.phase != status.phase or not self._rows:
            records = await self._listed()
        elif before.sequence == status.sequence:
            records = []
        else:
            records = await self._listed(states=IN_FLIGHT)
            in_flight = {record.id for record in records}
            earlier = [key for key, row in self._rows.items() if row["state"] not in ("archived", "rejected")]
            records += await self._named([key for key in earlier if key not in in_flight])
            if len(self._rows.keys() | in_flight) != sum(status.states.values()) or before.climbing or status.climbing:
                records = await self._listed()
        async with self._changed:
            self._apply(records)
            self._status, self._lost = status, ""
            self._changed.notify_all()

    def _apply(self, records: Iterable[candidate_pb2.Candidate]) -> None:
        fresh = [row for row in map(web_row, records) if self._rows.get(row["id"]) != row]
        if fresh:
            self._version += 1
        for row in fresh:
            self._rows[row["id"]] = row
            self._changed_in[row["id"]] = self._version

    async def _listed(self, **filters: Any) -> list[candidate_pb2.Candidate]:
        request = pb.ListCandidatesRequest(run=self.run, slim=True, **filters)
        return await all_candidates(await self._archive.stub(), request)

    async def _named(self, ids: list[str]) -> list[candidate_pb2.Candidate]:
        records: list[candidate_pb2.Candidate] = []
        for start in range(0, len(ids), PAGE):
            request = pb.GetCandidatesRequest(run=self.run, candidates=ids[start : start + PAGE])
            records += (await self._archive.call("GetCandidates", request)).candidates
        return records
