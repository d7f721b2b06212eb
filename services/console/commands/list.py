"""`asi-arch list`, `lineage` and `tree`: candidates as a table, and their descent."""

from collections.abc import Sequence
from typing import Annotated

import typer

from services.archive import all_candidates
from services.archive.scoring import objectives_of
from services.chassis.errors import SettingsError
from services.console.options import Candidate, Json, Run, RunArgument, chosen_run, print_json, run_async
from services.console.tables import family, listing, mixed_conditions, paragraph, say, styled
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2
from services.domain.ladder import SCALES
from services.local.archive import open_archive
from services.local.settings import client_settings, require_choice
from services.report.rows import Row, by_number, progress_of, root_among, row, state_name, tree_row

FRONT = "front"
SORTS = ("fitness", "loss", "benchmark", "parameters", "time", "stage", "state", FRONT, "number")


@run_async
async def list_(
    argument: RunArgument = "",
    run: Run = "",
    sort: Annotated[str, typer.Option(help=", ".join(SORTS[:-1]))] = "fitness",
    reverse: Annotated[bool, typer.Option("--reverse", help="reverse the order")] = False,
    state: Annotated[list[str] | None, typer.Option(help="only these states, such as archived")] = None,
    stage: Annotated[str, typer.Option(help=f"only this stage: {', '.join(SCALES)}")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="largest number of rows")] = None,
    as_json: Json = False,
) -> None:
    """List the candidates of a run, best first; with --sort front, those of the front first."""
    require_choice("--sort", sort, SORTS)
    if stage:
        require_choice("--stage", stage, SCALES)
    states = {state_name(number): number for number in candidate_pb2.State.values() if number}
    for name in state or []:
        require_choice("--state", name, tuple(states))
    async with open_archive(client_settings()) as archive:
        status = await archive.GetRun(pb.RunRequest(run=chosen_run(argument, run)), timeout=30)
        root = None
        if status.HasField("loss_of_root"):
            own = pb.ListCandidatesRequest(run=status.run, sort="number", reverse=True, slim=True)
            root = root_among(await all_candidates(archive, own, len(status.settings.baselines)), status.settings)
        objectives = [objective.name for objective in objectives_of(status.settings)]
        if not objectives and sort == FRONT:
            raise SettingsError("--sort front: the run has one objective; see asi-arch run --policy objectives=…")
        request = pb.ListCandidatesRequest(
            run=status.run, sort="loss" if sort == FRONT else sort, reverse=reverse, stage=stage,
            states=[states[name] for name in state or []], slim=True,
        )  # fmt: skip
        records = await all_candidates(archive, request, None if sort == FRONT else limit)
        rows, note = [row(record, root) for record in records], ""
        if objectives:
            everything = pb.ListCandidatesRequest(run=status.run, slim=True)
            note = _mark_front(rows, await all_candidates(archive, everything), status, objectives)
    if sort == FRONT:
        rows = sorted(rows, key=lambda row: not row["front"])[:limit]
    _print(rows, as_json, objectives, note)


def _mark_front(
    rows: Sequence[Row], records: Sequence[candidate_pb2.Candidate], status: pb.RunStatus, objectives: Sequence[str]
) -> str:
    """Mark the rows of the run's front; a sentence about it."""
    records = by_number(records)
    progress = progress_of(records, status.settings)
    front = {records[index].id for index in progress.front} if progress else set()
    for candidate in rows:
        candidate["front"] = candidate["id"] in front
    if not progress or not progress.volumes:
        return "no front yet: no baseline is measured in all objectives"
    share = 100 * progress.volumes[-1][1]
    return (
        f"{len(front)} on the front in {', '.join(objectives)}; it dominates {share:.3g} % of the box "
        "between zero and the worst baseline in each objective"
    )


@run_async
async def lineage(candidate: Candidate, run: Run = "", as_json: Json = False) -> None:
    """List a candidate and its ancestors, from the root on."""
    async with open_archive(client_settings()) as archive:
        request = pb.GetRelativesRequest(run=run, candidate=candidate)
        path = (await archive.GetRelatives(request, timeout=30)).path
        records = [await archive.GetCandidate(pb.GetCandidateRequest(run=run, candidate=name)) for name in path]
    _print([row(record) for record in records], as_json)


def _print(rows: Sequence[Row], as_json: bool, objectives: Sequence[str] = (), note: str = "") -> None:
    if as_json:
        print_json(rows)
        return
    say(listing(rows, objectives) if rows else "no candidate matches")
    if note:
        say(styled(paragraph(note), dim=True))
    if warning := mixed_conditions(rows):
        say(styled(paragraph(warning), fg="yellow"))


@run_async
async def tree(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """Print the phylogenetic tree of a run: children below their parent, the best first."""
    async with open_archive(client_settings()) as archive:
        status = await archive.GetRun(pb.RunRequest(run=chosen_run(argument, run)), timeout=30)
        reply = await archive.GetTree(pb.RunRequest(run=status.run), timeout=30)
    nodes = [tree_row(node) for node in reply.nodes]
    if as_json:
        print_json(nodes)
    else:
        say(f"run {status.run}: {len(nodes)} candidates\n{family(nodes)}")
