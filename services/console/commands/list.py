"""`asi-arch list`, `lineage` and `tree`: candidates as a table, and who descends from whom."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from services.console.archive import all_candidates, open_archive
from services.console.options import Candidate, Json, Run, RunArgument, chosen_run, one_of, print_json
from services.console.rows import Node, Row, row, states_of, tree_row
from services.console.settings import ConsoleSettings, console_settings
from services.console.tables import family, listing, mixed_precision, paragraph, say, styled
from services.contracts import archive_pb2 as pb
from services.domain.own_scale import SCALES

SORTS = ("fitness", "loss", "benchmark", "parameters", "time", "stage", "state", "number")


def list_(
    run: Run = "",
    sort: Annotated[str, typer.Option(help="fitness, loss, benchmark, parameters, time, stage or state")] = "fitness",
    reverse: Annotated[bool, typer.Option("--reverse", help="the other way round")] = False,
    state: Annotated[list[str] | None, typer.Option(help="only these states, as in archived")] = None,
    stage: Annotated[str, typer.Option(help="only this stage")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="at most so many")] = None,
    as_json: Json = False,
) -> None:
    """The candidates of a run, best first."""
    one_of("--sort", sort, SORTS)
    if stage:
        one_of("--stage", stage, SCALES)
    states = states_of(state or [])
    request = pb.ListCandidatesRequest(run=run, sort=sort, reverse=reverse, stage=stage, states=states, slim=True)
    _print(asyncio.run(_listed(console_settings(), request, limit)), as_json)


def lineage(candidate: Candidate, run: Run = "", as_json: Json = False) -> None:
    """A candidate and its ancestors, from the root on."""
    _print(asyncio.run(_lineage(console_settings(), run, candidate)), as_json)


async def _listed(settings: ConsoleSettings, request: pb.ListCandidatesRequest, limit: int | None) -> list[Row]:
    async with open_archive(settings) as archive:
        status = await archive.GetRun(pb.RunRequest(run=request.run), timeout=30)
        request.run = status.run
        root = status.loss_of_root if status.HasField("loss_of_root") else None
        return [row(record, root) for record in await all_candidates(archive, request, limit)]


async def _lineage(settings: ConsoleSettings, run: str, candidate: str) -> list[Row]:
    async with open_archive(settings) as archive:
        request = pb.GetRelativesRequest(run=run, candidate=candidate)
        path = (await archive.GetRelatives(request, timeout=30)).path
        return [row(await archive.GetCandidate(pb.GetCandidateRequest(run=run, candidate=id_))) for id_ in path]


def _print(rows: Sequence[Row], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    say(listing(rows) if rows else "no candidate matches")
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
