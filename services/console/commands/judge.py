"""`asi-arch judge` repeats verdicts and compares them with the record; `asi-arch rescore` recomputes fitness."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from services.archive.scoring import score, terms_of
from services.chassis.errors import NotFound, NotPossible, SettingsError
from services.chassis.events import first
from services.chassis.rpc import channel
from services.console.options import Json, Run, RunArgument, chosen_run, print_json, run_async
from services.console.tables import Column, paragraph, say, table
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2, events_pb2, judge_pb2, judge_pb2_grpc
from services.domain.fitness import STANDARDISED_GAIN, VERSIONS
from services.local.archive import catch_up, find_candidates, open_archive, run_and_candidates
from services.local.log import SERVICE, now, publish
from services.local.settings import ClientSettings, client_settings, require_choice
from services.local.system import service_addresses
from services.report.rows import number

JUDGE_SECONDS = 1800.0  # a model may be called several times, with retries and repairs
ANCHORS = {"delta_net": 5.0, "gated_delta_net": 7.0}  # their scores by the rubric


@dataclass(frozen=True)
class Drift:
    """A recorded verdict and its repetition, 1 to 10; None is absent, for the reason in `absent_because`."""

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
        return None if self.now is None or self.recorded is None else self.now - self.recorded


@run_async
async def judge(
    candidate: Annotated[str, typer.Argument(help="an id, or a name that just one candidate has")] = "",
    baselines: Annotated[bool, typer.Option("--calibrate", help="judge every baseline of the run instead")] = False,
    tolerance: Annotated[float, typer.Option(min=0, help="largest accepted drift, in points")] = 1.0,
    run: Run = "",
    as_json: Json = False,
) -> None:
    """Judge a candidate, or with --calibrate the baselines, again, and report the drift. Nothing is recorded.

    Exits 1 when the drift exceeds --tolerance, or nothing could be compared.
    """
    if bool(candidate) == baselines:
        raise SettingsError("name what to judge: either a CANDIDATE or --calibrate.")
    settings = client_settings()
    records = await find_candidates(settings, run, candidate) if candidate else await _baselines(settings, run)
    async with (
        service_addresses(settings, "archive", "judge") as address,
        channel(address["ASI_JUDGE_ADDRESS"], settings) as connection,
    ):
        stub = judge_pb2_grpc.JudgeStub(connection)
        rows = await asyncio.gather(*(_judge_again(stub, record) for record in records))  # all at once
    largest = max((abs(row.drift) for row in rows if row.drift is not None), default=None)
    if as_json:
        verdicts = [{**asdict(row), "drift": row.drift} for row in rows]
        print_json({"largest_drift": largest, "tolerance": tolerance, "verdicts": verdicts})
    else:
        _print(rows, largest)
    if largest is None or largest > tolerance:
        raise typer.Exit(1)


async def _baselines(settings: ClientSettings, run: str) -> list[candidate_pb2.Candidate]:
    """Raises NotFound where none is measured, NotPossible for a run without a judge."""
    async with open_archive(settings) as archive:
        status = await archive.GetRun(pb.RunRequest(run=run), timeout=30)
        if status.settings.ablations.without_judge:
            raise NotPossible(f"run {status.run} is without judge: there is nothing to calibrate")
        of_scale = pb.GetBaselinesRequest(run=status.run, stage=status.settings.scale)
        baselines = (await archive.GetBaselines(of_scale, timeout=30)).baselines
    measured = [record for record in baselines if record.training.HasField("loss")]
    if not measured:
        raise NotFound(f"no baseline of run {status.run} is measured yet")
    return measured


async def _judge_again(judge: judge_pb2_grpc.JudgeAsyncStub, record: candidate_pb2.Candidate) -> Drift:
    request = judge_pb2.JudgeRequest(run=record.run, candidate=record.id)
    now = await judge.Judge(request, timeout=JUDGE_SECONDS)
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


def _print(rows: Sequence[Drift], largest_drift: float | None) -> None:
    """One line per candidate; an absent value is a dash, with its reason below."""
    say(table([
        Column("id", [drift.candidate for drift in rows]),
        Column("name", [drift.name for drift in rows], flexible=True),
        Column("anchor", [number(drift.anchor, "g") for drift in rows], right=True, rank=1),
        Column("recorded", [number(drift.recorded, ".2f") for drift in rows], right=True),
        Column("now", [number(drift.now, ".2f") for drift in rows], right=True),
        Column("drift", [number(drift.drift, "+.2f") for drift in rows], right=True),
        Column("spread", [number(drift.spread, ".2f") for drift in rows], right=True, rank=2),
    ]))  # fmt: skip
    for drift in rows:
        if drift.now is None:
            say(paragraph(f"{drift.candidate}: {drift.absent_because}"))
    say("nothing to compare" if largest_drift is None else f"largest drift: {largest_drift:.2f} points")


@run_async
async def rescore(
    fitness: Annotated[str, typer.Option(help="standardised-gain-1, paper (mean of three terms) or code (their sum)")],
    argument: RunArgument = "",
    run: Run = "",
    as_json: Json = False,
) -> None:
    """Recompute a run's fitness in another version, as new events; the old values stay in the log."""
    require_choice("--fitness", fitness, VERSIONS)
    settings = client_settings()
    status, records = await run_and_candidates(settings, chosen_run(argument, run))
    events = rescored(status, records, fitness)
    if not events:
        needed = "the loss of the candidate and of the root"
        if fitness != STANDARDISED_GAIN:
            judge = "" if status.settings.ablations.without_judge else " and a judge's score"
            needed = f"a loss, a benchmark{judge} of the candidate, and a loss and a benchmark of the root"
        what = f"no candidate of run {status.run} can be rescored as {fitness}"
        raise NotPossible(f"{what}, which needs {needed}: see `asi-arch list`")
    await publish(settings, events)
    await catch_up(settings)
    if as_json:
        print_json({"run": status.run, "fitness": fitness, "rescored": len(events)})
    else:
        say(f"run {status.run}: {len(events)} candidates rescored as {fitness}")


def rescored(status: pb.RunStatus, records: Sequence[candidate_pb2.Candidate], version: str) -> list[events_pb2.Event]:
    """One event for each candidate that the version can score. Raises NotPossible if the root was not measured."""
    name = status.settings.baselines[0]
    measured = [record for record in records if record.training.HasField("loss")]
    root = next((record for record in measured if record.request.baseline == name), None)
    if root is None:
        raise NotPossible(
            f"the root baseline {name} of run {status.run} was not measured: nothing can be compared with it"
        )
    baselines = [record for record in measured if record.request.baseline]
    events = []
    for record in measured:
        raw = record.verdict.raw if record.verdict.HasField("raw") else None
        value = score(version, record, raw, root, terms_of(status.settings), baselines)
        if value is not None:
            event = first(status.run, f"{record.id}.rescored.{version}", SERVICE, now())
            event.candidate = record.id
            event.candidate_rescored.fitness.CopyFrom(value)
            event.candidate_rescored.reason = f"rescored as {version}"
            events.append(event)
    return events
