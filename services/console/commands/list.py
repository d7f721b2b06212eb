"""`asi-arch list`, `lineage` and `tree`: candidates as a table, and who descends from whom."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from services.archive.scoring import objectives_of
from services.chassis.errors import SettingsError
from services.console.archive import all_candidates, open_archive
from services.console.options import Candidate, Json, Run, RunArgument, chosen_run, one_of, print_json
from services.console.rows import Node, Row, progress_of, row, states_of, tree_row
from services.console.settings import ConsoleSettings, console_settings
from services.console.tables import family, listing, mixed_precision, paragraph, say, styled
from services.contracts import archive_pb2 as pb
from services.domain.ladder_settings import SCALES

FRONT = "front"
SORTS = ("fitness", "loss", "benchmark", "parameters", "time", "stage", "state", FRONT, "number")


def list_(
    run: Run = "",
    sort: Annotated[str, typer.Option(help=", ".join(SORTS[:-1]))] = "fitness",
    reverse: Annotated[bool, typer.Option("--reverse", help="the other way round")] = False,
    state: Annotated[list[str] | None, typer.Option(help="only these states, as in archived")] = None,
    stage: Annotated[str, typer.Option(help="only this stage")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="at most so many")] = None,
    as_json: Json = False,
) -> None:
    """The candidates of a run, best first; those of the front first with --sort front."""
    one_of("--sort", sort, SORTS)
    if stage:
        one_of("--stage", stage, SCALES)
    states = states_of(state or [])
    request = pb.ListCandidatesRequest(
        run=run, sort="loss" if sort == FRONT else sort, reverse=reverse, stage=stage, states=states, slim=True
    )
    rows, objectives, note = asyncio.run(_listed(console_settings(), request, limit, front_first=sort == FRONT))
    _print(rows, as_json, objectives, note)


def lineage(candidate: Candidate, run: Run = "", as_json: Json = False) -> None:
    """A candidate and its ancestors, from the root on."""
    _print(asyncio.run(_lineage(console_settings(), run, candidate)), as_json)


async def _listed(
    settings: ConsoleSettings, request: pb.ListCandidatesRequest, limit: int | None, front_first: bool
) -> tuple[list[Row], list[str], str]:
    """The rows, what the run optimises beside fitness, and a sentence about its front."""
    async with open_archive(settings) as archive:
        status = await archive.GetRun(pb.RunRequest(run=request.run), timeout=30)
        request.run = status.run
        root = status.loss_of_root if status.HasField("loss_of_root") else None
        objectives = [objective.name for objective in objectives_of(status.settings)]
        if not objectives and front_first:
            raise SettingsError("--sort front: the run has one objective; see asi-arch run --policy objectives=…")
        records = await all_candidates(archive, request, None if front_first else limit)
        rows = [row(record, root) for record in records]
        if not objectives:
            return rows, [], ""
        whole = pb.ListCandidatesRequest(run=status.run, sort="number", reverse=True, slim=True)
        all_records = sorted(await all_candidates(archive, whole), key=lambda record: record.request.number)
    progress = progress_of(all_records, status.settings)
    front = {all_records[place].id for place in progress.front} if progress else set()
    for one in rows:
        one["front"] = one["id"] in front
    if front_first:
        rows = sorted(rows, key=lambda one: not one["front"])[:limit]
    note = (
        f"{len(front)} on the front in {', '.join(objectives)}; it dominates {progress.volumes[-1][1]:.2%} of the box "
        "between zero and the worst baseline in each objective"
        if progress and progress.volumes
        else "no front yet: no baseline is measured in all objectives"
    )
    return rows, objectives, note


async def _lineage(settings: ConsoleSettings, run: str, candidate: str) -> list[Row]:
    async with open_archive(settings) as archive:
        request = pb.GetRelativesRequest(run=run, candidate=candidate)
        path = (await archive.GetRelatives(request, timeout=30)).path
        return [row(await archive.GetCandidate(pb.GetCandidateRequest(run=run, candidate=id_))) for id_ in path]


def _print(rows: Sequence[Row], as_json: bool, objectives: Sequence[str] = (), note: str = "") -> None:
    if as_json:
        print_json(rows)
        return
    say(listing(rows, objectives) if rows else "no candidate matches")
    if note:
        say(styled(paragraph(note), dim=True))
    if warning := mixed_precision(rows):
        say(styled(paragraph(warning), fg="yellow"))


def tree(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """The phylogenetic tree of a run: children below their parent, the best first."""
    name, nodes = asyncio.run(_nodes(console_settings(), chosen_run(argument, run)))
    if as_json:
        print_json(nodes)
    else:
        say(f"run {name}: {len(nodes)} candidates")
        say(family(nodes))


async def _nodes(settings: ConsoleSettings, run: str) -> tuple[str, list[Node]]:
    async with open_archive(settings) as archive:
        status = await archive.GetRun(pb.RunRequest(run=run), timeout=30)
        reply = await archive.GetTree(pb.RunRequest(run=status.run), timeout=30)
        return status.run, [tree_row(node) for node in reply.nodes]
