"""`asi-arch rescore`: a run's fitness in another version, as new events."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from services.archive.scoring import score, terms_of
from services.chassis.errors import NotPossible
from services.chassis.events import first
from services.console.archive import catch_up, run_and_candidates
from services.console.log import SERVICE, now, publish
from services.console.options import Json, Run, RunArgument, chosen_run, one_of, print_json
from services.console.settings import ConsoleSettings, console_settings
from services.console.tables import say
from services.contracts import events_pb2 as pb
from services.contracts.archive_pb2 import RunStatus
from services.contracts.candidate_pb2 import Candidate
from services.domain.fitness import VERSIONS


def rescore(
    fitness: Annotated[str, typer.Option(help="standardised-gain-1, paper (mean of three terms) or code (their sum)")],
    argument: RunArgument = "",
    run: Run = "",
    as_json: Json = False,
) -> None:
    """Compute a run's fitness anew in another version, as new events; the old values stay in the log."""
    one_of("--fitness", fitness, VERSIONS)
    name, count = asyncio.run(_rescore(console_settings(), chosen_run(argument, run), fitness))
    if as_json:
        print_json({"run": name, "fitness": fitness, "rescored": count})
    else:
        say(f"run {name}: {count} candidates rescored as {fitness}")


async def _rescore(settings: ConsoleSettings, run: str, version: str) -> tuple[str, int]:
    status, records = await run_and_candidates(settings, run)
    events = rescored(status, records, version)
    await publish(settings, events)
    await catch_up(settings)
    return status.run, len(events)


def rescored(status: RunStatus, records: Sequence[Candidate], version: str) -> list[pb.Event]:
    """One candidate.rescored for each candidate whose fitness the version can be computed for.

    Raises NotPossible when the root was not measured.
    """
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
