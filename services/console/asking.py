"""Commands that ask: what the archive holds, as text or JSON."""

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from services.chassis.errors import NotFound
from services.console.app import Candidate, Json, Named, Run, app, whole_run
from services.console.commands import gallery as claims
from services.console.commands import inspect, query
from services.console.commands.rerun import rerun_of
from services.console.plan import SCALES, one_of
from services.console.settings import console_settings
from services.console.tables import terminal
from services.contracts import archive_pb2 as pb

SORTS = ("fitness", "loss", "benchmark", "parameters", "time", "stage", "state")


@app.command()
def status(named: Named = "", run: Run = "", as_json: Json = False) -> None:
    """Where a run stands."""
    about = asyncio.run(query.status(console_settings(), whole_run(named, run)))
    if as_json:
        typer.echo(query.as_json(about))
    else:
        query.print_status(terminal(), about)


@app.command("list")
def list_candidates(
    run: Run = "",
    sort: Annotated[str, typer.Option(help="fitness, loss, benchmark, parameters, time, stage or state")] = "fitness",
    reverse: Annotated[bool, typer.Option("--reverse", help="the other way round")] = False,
    state: Annotated[list[str] | None, typer.Option(help="only these states, as in archived")] = None,
    stage: Annotated[str, typer.Option(help="only this stage")] = "",
    as_json: Json = False,
) -> None:
    """The candidates of a run, best first."""
    one_of("--sort", sort, SORTS)
    if stage:
        one_of("--stage", stage, SCALES)
    request = pb.ListCandidatesRequest(
        run=run, sort=sort, reverse=reverse, stage=stage, states=query.states_of(state or [])
    )
    found = asyncio.run(query.rows(console_settings(), request))
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        query.print_list(terminal(), found)


@app.command()
def show(
    candidate: Candidate,
    program: Annotated[bool, typer.Option("--program", help="its program, nothing else")] = False,
    run: Run = "",
    as_json: Json = False,
) -> None:
    """One candidate: numbers, motivation, verdict, analysis."""
    record = asyncio.run(query.candidate(console_settings(), run, candidate))
    if as_json:
        typer.echo(query.as_json(record))
    elif program and not sys.stdout.isatty():
        typer.echo(record.training.program or record.proposal.program)
    else:
        root = asyncio.run(query.root_of(console_settings(), record))
        query.print_candidate(terminal(), record, program, root)


@app.command()
def tree(named: Named = "", run: Run = "", as_json: Json = False) -> None:
    """The phylogenetic tree of a run."""
    name, nodes = asyncio.run(query.tree(console_settings(), whole_run(named, run)))
    if as_json:
        typer.echo(json.dumps(nodes, indent=2, ensure_ascii=False))
    else:
        query.print_tree(terminal(), name, nodes)


@app.command()
def runs(as_json: Json = False) -> None:
    """All runs, newest first."""
    found = asyncio.run(inspect.runs(console_settings()))
    if as_json:
        typer.echo(inspect.to_json([json.loads(query.as_json(one)) for one in found]))
    else:
        inspect.print_runs(terminal(), found)


@app.command()
def report(
    named: Named = "",
    run: Run = "",
    out: Annotated[Path | None, typer.Option(help="folder; default: below the run's own")] = None,
    as_json: Json = False,
) -> None:
    """Write a run's report: a page that opens without a network, figures, and the CSV behind each."""
    page = asyncio.run(inspect.report(console_settings(), whole_run(named, run), out))
    if page is None:
        raise NotFound("the run has no candidate yet")
    typer.echo(inspect.to_json({"page": str(page)}) if as_json else page)


@app.command()
def lineage(candidate: Candidate, run: Run = "", as_json: Json = False) -> None:
    """From the root to a candidate."""
    found = asyncio.run(inspect.lineage(console_settings(), run, candidate))
    if as_json:
        typer.echo(inspect.to_json(found))
    else:
        query.print_list(terminal(), found)


@app.command()
def compare(first: Candidate, second: Candidate, run: Run = "", as_json: Json = False) -> None:
    """Two candidates, measure by measure."""
    one, other = asyncio.run(inspect.two(console_settings(), run, first, second))
    if as_json:
        typer.echo(inspect.to_json(inspect.compared(one, other)))
    else:
        inspect.print_compared(terminal(), one, other)


@app.command()
def diff(first: Candidate, second: Candidate, run: Run = "", as_json: Json = False) -> None:
    """The difference between two programs."""
    one, other = asyncio.run(inspect.two(console_settings(), run, first, second))
    text = inspect.program_difference(one, other)
    if as_json:
        typer.echo(inspect.to_json({"run": one.run, "first": one.id, "second": other.id, "difference": text}))
    else:
        inspect.print_difference(terminal(), text)


@app.command()
def cost(named: Named = "", run: Run = "", as_json: Json = False) -> None:
    """What a run has used: time, compute, tokens, money."""
    about, records = asyncio.run(inspect.all_of(console_settings(), whole_run(named, run)))
    found = inspect.costs(about, records)
    if as_json:
        typer.echo(inspect.to_json(found))
        return
    inspect.print_costs(terminal(), found)


@app.command()
def gallery(named: Named = "", run: Run = "", as_json: Json = False) -> None:
    """Model cards of confirmed discoveries, and every claim that was tried on fresh seeds and data."""
    about, records = asyncio.run(inspect.all_of(console_settings(), whole_run(named, run)))
    found, cards = claims.claims(records), claims.cards(about, records)
    if as_json:
        shown = {one.candidate: claims.card_json(one) for one in cards}
        typer.echo(inspect.to_json([{**one, "card": shown.get(str(one["id"]))} for one in found]))
    else:
        claims.print_gallery(terminal(), found, cards, claims.sentences(records))


@app.command()
def web(
    port: Annotated[int, typer.Option(min=0, max=65535, help="port on this machine; 0 takes a free one")] = 8070,
    host: Annotated[
        str, typer.Option(help="address to listen on; the page is read-only and has no login")
    ] = "127.0.0.1",
) -> None:
    """The live page: tree, leaderboard, candidates, progress. Ctrl-C ends it."""
    from services.console.web.server import serve

    asyncio.run(serve(console_settings(), host, port))


@app.command()
def audit(
    candidate: Candidate,
    no_rerun: Annotated[bool, typer.Option("--no-rerun", help="only show the chain")] = False,
    run: Run = "",
    as_json: Json = False,
) -> None:
    """The whole chain of one result; then its check and training once more, to see whether the numbers hold."""
    record, links = asyncio.run(inspect.chain(console_settings(), run, candidate))
    if as_json:
        chain = [json.loads(query.as_json(one)) for one in links]
        found: dict[str, object] = {"candidate": json.loads(query.as_json(record)), "chain": chain}
    else:
        inspect.print_audit(terminal(), record, links)
    about = asyncio.run(query.status(console_settings(), record.run))
    rerun = None if no_rerun else rerun_of(record, about)
    if as_json:
        typer.echo(inspect.to_json(found | {"rerun": None if rerun is None else asdict(rerun)}))
    elif rerun is not None:
        typer.echo(rerun.sentence)
    if rerun is not None and not rerun.holds:
        raise typer.Exit(1)
