"""The command line: flags in, text or JSON out, one sentence and a non-zero status for whatever cannot be.

Exit status: 0 done, 1 the answer is no (nothing found, a check failed, a run without a result), 2 a flag or setting is
impossible, 130 interrupted and drained.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeVar

import grpc.aio
import typer

from services.chassis import logs
from services.chassis.errors import BusLost, NotFound, NotPossible, SettingsError, Transient
from services.console.commands import inspect, query
from services.console.commands import run as discovery
from services.console.commands.rerun import rerun_of
from services.console.local.processes import ServiceFailed
from services.console.local.system import AlreadyRunning, log_server, running_system
from services.console.plan import Flags, checked_run_name
from services.console.progress import Progress, clock
from services.console.rows import ranked
from services.console.settings import ConsoleSettings, console_settings
from services.console.steer import pause_run, publish_all, rescored, resume_run, set_up, stop_run
from services.console.tables import ranking, terminal
from services.contracts import archive_pb2 as pb

app = typer.Typer(
    name="asi-arch",
    help="An autonomous laboratory that discovers linear-attention architectures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Run = Annotated[str, typer.Option("--run", metavar="NAME", help="the run; default: the newest")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]
INTERRUPTED = 130
T = TypeVar("T")


@app.command()
def run(
    name: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="name of the run; default: r1, r2, …")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with --run, or with the newest run")] = False,
    scale: Annotated[str, typer.Option(help="tiny, explore, verify or final")] = "tiny",
    mind: Annotated[str, typer.Option(help="offline, openai or recorded:RUN")] = "offline",
    candidates: Annotated[
        int | None, typer.Option(min=0, help="proposals; default at tiny: 6, beside the baselines")
    ] = None,
    hours: Annotated[float | None, typer.Option(min=0, help="wall-clock hours")] = None,
    gpu_hours: Annotated[float | None, typer.Option(min=0, help="GPU-hours")] = None,
    tokens: Annotated[int | None, typer.Option(min=0, help="language-model tokens")] = None,
    money: Annotated[float | None, typer.Option(min=0, help="US dollars for language models")] = None,
    seats: Annotated[int, typer.Option(min=1, help="candidates in flight at once")] = 2,
    seed: Annotated[int, typer.Option(help="of every random draw of the run")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="trainings per candidate")] = 1,
    baseline_seeds: Annotated[int, typer.Option(min=1, help="trainings per baseline")] = 1,
    baselines: Annotated[str, typer.Option(help="names in the zoo, commas between; the first is the root")] = "",
    fitness: Annotated[str, typer.Option(help="paper (mean of three) or code (their sum)")] = "paper",
    parent_policy: Annotated[str, typer.Option(help="paper, uniform, power-law, uct or islands")] = "paper",
    promotion: Annotated[str, typer.Option(help="none, paper or halving")] = "none",
    judge_times: Annotated[int, typer.Option(min=1, help="how often a language-model judge is asked")] = 1,
    without: Annotated[list[str] | None, typer.Option(help="switch off: cognition, analysis, judge")] = None,
    random_parent: Annotated[bool, typer.Option("--random-parent", help="draw parents blindly")] = False,
    best_of: Annotated[int, typer.Option(min=1, help="proposals drawn for each one kept")] = 1,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="override of the scale")
    ] = None,
    policy: Annotated[list[str] | None, typer.Option("--policy", metavar="NAME=VALUE", help="policy setting")] = None,
    as_json: Json = False,
) -> None:
    """Run the whole laboratory on this machine: baselines, then new candidates, to a ranked summary."""
    flags = Flags(
        scale=scale, mind=mind, candidates=candidates, hours=hours, gpu_hours=gpu_hours, tokens=tokens, money=money,
        seats=seats, seed=seed, candidate_seeds=seeds, baseline_seeds=baseline_seeds,
        baselines=[one.strip() for one in baselines.split(",") if one.strip()], fitness=fitness,
        parent_policy=parent_policy, promotion=promotion, judge_times=judge_times, without=without or (),
        random_parent=random_parent, best_of=best_of, overrides=override or (), policies=policy or (),
    )  # fmt: skip
    settings = console_settings()
    console = terminal()
    wanted = checked_run_name(name) if name else None
    outcome = asyncio.run(discovery.discover(settings, flags, wanted, resume, Progress(console, quiet=as_json)))
    about = outcome.status
    if as_json:
        typer.echo(json.dumps(ranked(outcome.rows), indent=2, ensure_ascii=False))
    else:
        console.print(ranking(ranked(outcome.rows)))
        ending = "paused" if outcome.interrupted else about.stop_reason or about.phase
        console.print(f"run {about.run}: {ending}; {clock(about.spent.seconds)}, {about.sequence} events")
        if outcome.report is not None:
            console.print(f"  {'report':<13}{outcome.report}", soft_wrap=True)
        for title, path in (("archive", settings.data_dir / "archive.db"), ("event log", settings.data_dir / "nats"),
                            ("service logs", settings.data_dir / "logs")):  # fmt: skip
            console.print(f"  {title:<13}{path}", soft_wrap=True)
        if outcome.interrupted:
            console.print(f"go on with: asi-arch run --resume --run {about.run}", soft_wrap=True)
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not any(one["fitness"] is not None for one in outcome.rows):
        raise typer.Exit(1)


@app.command()
def status(run: Run = "", as_json: Json = False) -> None:
    """Where a run stands."""
    about = asyncio.run(query.status(console_settings(), run))
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
    candidate: Annotated[str, typer.Argument(help="an id, or a name that just one candidate has")],
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
        query.print_candidate(terminal(), record, program)


@app.command()
def tree(run: Run = "", as_json: Json = False) -> None:
    """The phylogenetic tree of a run."""
    name, nodes = asyncio.run(query.tree(console_settings(), run))
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
    run: Run = "",
    out: Annotated[Path | None, typer.Option(help="folder; default: below the run's own")] = None,
) -> None:
    """Write a run's report: a page that opens without a network, figures, and the CSV behind each."""
    page = asyncio.run(inspect.report(console_settings(), run, out))
    if page is None:
        raise NotFound("the run has no candidate yet")
    typer.echo(page)


@app.command()
def lineage(candidate: str, run: Run = "", as_json: Json = False) -> None:
    """From the root to a candidate."""
    found = asyncio.run(inspect.lineage(console_settings(), run, candidate))
    if as_json:
        typer.echo(inspect.to_json(found))
    else:
        query.print_list(terminal(), found)


@app.command()
def compare(first: str, second: str, run: Run = "", as_json: Json = False) -> None:
    """Two candidates, measure by measure."""
    one, other = asyncio.run(inspect.two(console_settings(), run, first, second))
    if as_json:
        typer.echo(inspect.to_json(inspect.compared(one, other)))
    else:
        inspect.print_compared(terminal(), one, other)


@app.command()
def diff(first: str, second: str, run: Run = "") -> None:
    """The difference between two programs."""
    one, other = asyncio.run(inspect.two(console_settings(), run, first, second))
    inspect.print_difference(terminal(), inspect.program_difference(one, other))


@app.command()
def cost(run: Run = "", as_json: Json = False) -> None:
    """What a run has used: time, compute, tokens, money."""
    about, records = asyncio.run(inspect.all_of(console_settings(), run))
    found = inspect.costs(about, records)
    if as_json:
        typer.echo(inspect.to_json(found))
        return
    for name, value in found.items():
        typer.echo(f"{name.replace('_', ' '):<26}{value:,.2f}" if isinstance(value, float) else f"{name:<26}{value}")


@app.command()
def gallery(run: Run = "", as_json: Json = False) -> None:
    """Claims that were tried: discoveries confirmed on fresh seeds and data, and those that were not."""
    _, records = asyncio.run(inspect.all_of(console_settings(), run))
    found = inspect.claims(records)
    if as_json:
        typer.echo(inspect.to_json(found))
    else:
        inspect.print_claims(terminal(), found)


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
def dead(run: Run = "", as_json: Json = False) -> None:
    """What ended because a message could not be handled; the tracebacks are in the service logs."""
    _, records = asyncio.run(inspect.all_of(console_settings(), run))
    found = inspect.dead_letters(records)
    if as_json:
        typer.echo(inspect.to_json(found))
    else:
        typer.echo("\n".join(f"{one['candidate']}  {one['stage']}: {one['reason']}" for one in found) or "none")


@app.command()
def audit(
    candidate: str,
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


@app.command()
def pause(run: Run = "") -> None:
    """Give out no further seats; what is in flight goes on."""
    _steer(pause_run, run, "paused by hand")


@app.command()
def resume(run: Run = "") -> None:
    """Give out seats again, in a system that runs; `asi-arch run --resume` starts one."""
    _steer(resume_run, run, None)


@app.command()
def stop(run: Run = "") -> None:
    """End a run; candidates in flight still come to their end."""
    _steer(stop_run, run, "stopped by hand")


def _steer(say: Callable[[ConsoleSettings, str, T], Coroutine[None, None, None]], run: str, what: T) -> None:
    settings = console_settings()
    name = asyncio.run(query.status(settings, run)).run
    with log_server(settings) as log:
        address = log.get("ASI_NATS_URL", settings.nats_url)
        asyncio.run(say(settings.model_copy(update={"nats_url": address}), name, what))
        _catch_up(settings, log)
    typer.echo(f"run {name} was told; see `asi-arch status`")


def _catch_up(settings: ConsoleSettings, log: dict[str, str]) -> None:
    """Where no store runs, the archive takes in what was just published."""
    if running_system(settings) is None and "ASI_ARCHIVE_ADDRESS" not in os.environ:
        subprocess.run(
            [sys.executable, "-m", "services.store.tools", "catch-up"], env={**os.environ, **log}, check=False
        )


@app.command()
def setup(
    check_only: Annotated[bool, typer.Option("--check", help="create nothing, report differences")] = False,
) -> None:
    """Create or verify streams and durable consumers on the NATS server; idempotent. Exits 1 on drift."""
    settings = console_settings()
    with log_server(settings) as log:
        client = settings.model_copy(update={"nats_url": log.get("ASI_NATS_URL", settings.nats_url)})
        created, differences = asyncio.run(set_up(client, create=not check_only))
    for line in created:
        typer.echo(f"created {line}")
    for line in differences:
        typer.echo(f"drift: {line}", err=True)
    if differences:
        raise typer.Exit(1)
    typer.echo("streams and consumers are as they must be")


PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=PASS_ON, add_help_option=False)
def check(context: typer.Context) -> None:
    """Screen and probe the program in a FILE; see `asi-arch check --help`."""
    _hand_over("services.engineer.tools", "check", context)


@app.command(context_settings=PASS_ON, add_help_option=False)
def train(context: typer.Context) -> None:
    """Train and evaluate the program in a FILE; see `asi-arch train --help`."""
    _hand_over("services.engineer.tools", "train", context)


@app.command(context_settings=PASS_ON, add_help_option=False)
def cognition(context: typer.Context) -> None:
    """The cognition base: search QUERY, add FILE, ingest PAPER, stats [--run NAME]."""
    arguments, given = list(context.args), None
    if arguments[:1] == ["stats"]:
        run = arguments.pop(arguments.index("--run") + 1) if "--run" in arguments[:-1] else ""
        arguments = [one for one in arguments if one != "--run"]
        given = json.dumps(inspect.uses(asyncio.run(inspect.all_of(console_settings(), run))[1]))
    command = [sys.executable, "-m", "services.analyst.cognition", *arguments]
    raise typer.Exit(subprocess.run(command, input=given, text=True, check=False).returncode)


@app.command()
def rescore(
    fitness: Annotated[str, typer.Option(help="paper (mean of three) or code (their sum)")],
    run: Run = "",
    as_json: Json = False,
) -> None:
    """Compute a run's fitness anew in another version, as new events; the old values stay in the log."""
    settings = console_settings()
    about, records = asyncio.run(inspect.all_of(settings, run))
    events = rescored(about, records, fitness)
    with log_server(settings) as log:
        address = log.get("ASI_NATS_URL", settings.nats_url)
        asyncio.run(publish_all(settings.model_copy(update={"nats_url": address}), events))
        _catch_up(settings, log)
    found = {"run": about.run, "fitness": fitness, "rescored": len(events)}
    typer.echo(json.dumps(found) if as_json else f"run {about.run}: {len(events)} candidates rescored as {fitness}")


@app.command(context_settings=PASS_ON, add_help_option=False)
def replay(context: typer.Context) -> None:
    """Rebuild a RUN from its log alone and compare with the archive."""
    _hand_over("services.store.tools", "replay", context, with_log=True)


@app.command("import", context_settings=PASS_ON, add_help_option=False)
def import_(context: typer.Context) -> None:
    """Bring in a published archive (asi-arch PATH) or an exported log (jsonl PATH) as a run of its own."""
    _hand_over("services.store.tools", "import", context, with_log=True)


@app.command(context_settings=PASS_ON, add_help_option=False)
def export(context: typer.Context) -> None:
    """Write a RUN out: its whole log (jsonl), a table (parquet), or the published format (asi-arch)."""
    _hand_over("services.store.tools", "export", context, with_log=True)


@app.command(context_settings=PASS_ON, add_help_option=False)
def backup(context: typer.Context) -> None:
    """Copy the archive to a file."""
    _hand_over("services.store.tools", "backup", context)


@app.command(context_settings=PASS_ON, add_help_option=False)
def restore(context: typer.Context) -> None:
    """Make the archive from a copy."""
    _hand_over("services.store.tools", "restore", context)


def _hand_over(module: str, command: str, context: typer.Context, with_log: bool = False) -> None:
    """Run a service's own tool: torch, for example, is imported below the engineer only."""
    arguments = [sys.executable, "-m", module, command, *context.args]
    with ExitStack() as stack:
        log = stack.enter_context(log_server(console_settings())) if with_log else {}
        status = subprocess.call(arguments, env={**os.environ, **log})
    raise typer.Exit(status)


def main() -> None:
    """The entry point: what was foreseen to go wrong ends in one sentence."""
    logs.configure("console", "warning")
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except SettingsError as error:
        _fail(str(error), 2)
    except (NotFound, NotPossible, AlreadyRunning, ServiceFailed, BusLost, Transient, OSError) as error:
        _fail(str(error), 1)
    except grpc.aio.AioRpcError as error:
        _fail(error.details() or error.code().name, 2 if error.code() is grpc.StatusCode.INVALID_ARGUMENT else 1)


def _fail(sentence: str, code: int) -> None:
    sys.stderr.write(f"asi-arch: {sentence}\n")
    sys.exit(code)
