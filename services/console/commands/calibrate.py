"""`asi-arch judge`: verdicts once more, beside those on record. Nothing is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.chassis.errors import NotFound, NotPossible
from services.chassis.rpc import channel
from services.console.local.readers import answering
from services.console.settings import ConsoleSettings
from services.console.tables import number
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc, candidate_pb2, judge_pb2, judge_pb2_grpc

JUDGE_SECONDS = 1800.0  # a model may be asked several times, and each asking has retries and a repair
ANCHORS = {"delta_net": 5.0, "gated_delta_net": 10.0}  # where the rubric puts them


@dataclass(frozen=True)
class Drift:
    """A verdict on record and the same once more, 1 to 10; None for what is absent, and why in `absent_because`."""

    candidate: str
    name: str
    anchor: float | None
    recorded: float | None
    now: float | None
    spread: float | None
    judge: str
    absent_because: str

    @property
    def drift(self) -> float | None:
        """Now less recorded."""
        return None if self.now is None or self.recorded is None else self.now - self.recorded

    def as_row(self) -> dict[str, object]:
        """For JSON."""
        return {
            "candidate": self.candidate, "name": self.name, "anchor": self.anchor, "recorded": self.recorded,
            "now": self.now, "drift": self.drift, "spread": self.spread, "judge": self.judge,
            "absent_because": self.absent_because,
        }  # fmt: skip


async def calibration(settings: ConsoleSettings, run: str) -> tuple[str, list[Drift]]:
    """The run's name and every measured baseline judged again, all at once.

    Raises NotFound where none is measured, NotPossible where the run's judge cannot be asked.
    """
    async with _judges(settings) as (archive, judge):
        status = await archive.GetRun(pb.RunRequest(run=run), timeout=30)
        if status.settings.ablations.without_judge:
            raise NotPossible(f"run {status.run} is without judge: there is nothing to calibrate")
        request = pb.GetBaselinesRequest(run=status.run, stage=status.settings.scale)
        known = (await archive.GetBaselines(request, timeout=30)).baselines
        measured = [one for one in known if one.training.HasField("loss")]
        if not measured:
            raise NotFound(f"no baseline of run {status.run} is measured yet")
        return status.run, list(await asyncio.gather(*(_again(judge, one) for one in measured)))


async def verdict(settings: ConsoleSettings, run: str, candidate: str) -> Drift:
    """One candidate judged again. Raises NotPossible where it is not measured."""
    async with _judges(settings) as (archive, judge):
        wanted = pb.GetCandidateRequest(run=run, candidate=candidate)
        return await _again(judge, await archive.GetCandidate(wanted, timeout=30))


async def _again(judge: judge_pb2_grpc.JudgeAsyncStub, record: candidate_pb2.Candidate) -> Drift:
    request = judge_pb2.JudgeRequest(run=record.run, candidate=record.id)
    try:
        now = await judge.Judge(request, timeout=JUDGE_SECONDS)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
            raise NotPossible(error.details() or f"candidate {record.id} cannot be judged") from None
        raise
    return Drift(
        candidate=record.id,
        name=record.proposal.name,
        anchor=ANCHORS.get(record.request.baseline),
        recorded=record.verdict.raw if record.verdict.HasField("raw") else None,
        now=now.raw if now.HasField("raw") else None,
        spread=now.spread if now.HasField("spread") else None,
        judge=now.judge,
        absent_because=now.absent_because,
    )


@asynccontextmanager
async def _judges(
    settings: ConsoleSettings,
) -> AsyncIterator[tuple[archive_pb2_grpc.ArchiveAsyncStub, judge_pb2_grpc.JudgeAsyncStub]]:
    async with (
        answering(settings, "archive", "judge") as address,
        channel(address["ASI_ARCHIVE_ADDRESS"], settings) as archive,
        channel(address["ASI_JUDGE_ADDRESS"], settings) as judge,
    ):
        await _must_answer(judge, address["ASI_JUDGE_ADDRESS"])
        yield archive_pb2_grpc.ArchiveStub(archive), judge_pb2_grpc.JudgeStub(judge)


async def _must_answer(connection: grpc.aio.Channel, address: str) -> None:
    """A verdict may take half an hour; that nobody is there shall be known at once."""
    check = health_pb2_grpc.HealthStub(connection).Check  # type: ignore[attr-defined]
    try:
        await check(health_pb2.HealthCheckRequest(), timeout=10)
    except grpc.aio.AioRpcError:
        raise NotPossible(f"no judge answers at {address}; set ASI_JUDGE_ADDRESS, or unset it to start one") from None


def largest(rows: Sequence[Drift]) -> float | None:
    """The largest drift, without its sign; None where nothing could be compared."""
    return max((abs(one.drift) for one in rows if one.drift is not None), default=None)


def print_drifts(console: Console, rows: Sequence[Drift]) -> None:
    """One line per candidate; what is absent is a dash, with its reason below."""
    table = Table(box=None, pad_edge=False)
    for name in ("id", "name", "anchor", "recorded", "now", "drift", "spread"):
        table.add_column(name, justify="left" if name in ("id", "name") else "right")
    for one in rows:
        table.add_row(
            one.candidate, escape(one.name), number(one.anchor, "g"), number(one.recorded, ".2f"),
            number(one.now, ".2f"), number(one.drift, "+.2f"), number(one.spread, ".2f"),
        )  # fmt: skip
    console.print(table)
    for one in rows:
        if one.now is None:
            console.print(f"{one.candidate}: {escape(one.absent_because)}", soft_wrap=True)
