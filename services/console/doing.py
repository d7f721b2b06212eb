"""Commands that do something: try programs out, move archives, steer runs."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from typing import Annotated

import typer

from services.console.app import PASS_ON, Json, Named, Run, T, app, whole_run
from services.console.archive import catch_up
from services.console.commands import inspect, query
from services.console.exporting import asks_for_module, export_module
from services.console.local.readers import must_exist
from services.console.local.system import log_server
from services.console.settings import ConsoleSettings, console_settings
from services.console.steer import pause_run, publish_all, rescored, resume_run, stop_run

HELP = frozenset({"-h", "--help"})


@app.command()
def pause(named: Named = "", run: Run = "", as_json: Json = False) -> None:
    """Give out no further seats; what is in flight goes on."""
    _steer(pause_run, whole_run(named, run), "paused by hand", as_json)


@app.command()
def resume(named: Named = "", run: Run = "", as_json: Json = False) -> None:
    """Give out seats again, in a system that runs; `asi-arch run --resume` starts one."""
    _steer(resume_run, whole_run(named, run), None, as_json)


@app.command()
def stop(named: Named = "", run: Run = "", as_json: Json = False) -> None:
    """End a run; candidates in flight still come to their end."""
    _steer(stop_run, whole_run(named, run), "stopped by hand", as_json)


def _steer(
    say: Callable[[ConsoleSettings, str, T], Coroutine[None, None, None]], run: str, what: T, as_json: bool
) -> None:
    settings = console_settings()
    name = asyncio.run(query.status(settings, run)).run
    with log_server(settings) as log:
        address = log.get("ASI_NATS_URL", settings.nats_url)
        asyncio.run(say(settings.model_copy(update={"nats_url": address}), name, what))
    catch_up(settings)
    told = {"run": name, "told": say.__name__.removesuffix("_run")}
    typer.echo(json.dumps(told) if as_json else f"run {name} was told; see `asi-arch status`")


@app.command(context_settings=PASS_ON, add_help_option=False)
def setup(context: typer.Context) -> None:
    """Create or verify streams, consumers, tables and indexes; see `asi-arch setup --help`."""
    _hand_over("services.store.tools", "setup", context, with_log=True)


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
    named: Named = "",
    run: Run = "",
    as_json: Json = False,
) -> None:
    """Compute a run's fitness anew in another version, as new events; the old values stay in the log."""
    settings = console_settings()
    about, records = asyncio.run(inspect.all_of(settings, whole_run(named, run)))
    events = rescored(about, records, fitness)
    with log_server(settings) as log:
        address = log.get("ASI_NATS_URL", settings.nats_url)
        asyncio.run(publish_all(settings.model_copy(update={"nats_url": address}), events))
    catch_up(settings)
    found = {"run": about.run, "fitness": fitness, "rescored": len(events)}
    typer.echo(json.dumps(found) if as_json else f"run {about.run}: {len(events)} candidates rescored as {fitness}")


@app.command(context_settings=PASS_ON, add_help_option=False)
def replay(context: typer.Context) -> None:
    """Rebuild a RUN from its log alone and compare with the archive."""
    _must_know_run(context.args)
    _hand_over("services.store.tools", "replay", context, with_log=True)


@app.command("import", context_settings=PASS_ON, add_help_option=False)
def import_(context: typer.Context) -> None:
    """Bring in a published archive (asi-arch PATH) or an exported log (jsonl or parquet PATH) as a run of its own."""
    _hand_over("services.store.tools", "import", context, with_log=True)


@app.command(context_settings=PASS_ON, add_help_option=False)
def export(context: typer.Context) -> None:
    """Write a RUN out: its whole log (jsonl), tables (parquet), the published format, or one architecture.

    The last is `export RUN --as module --candidate C --out DIR`: a Python package that needs torch alone.
    """
    if asks_for_module(context.args):
        export_module(context.args)
        return
    _must_know_run(context.args)
    _hand_over("services.store.tools", "export", context, with_log=True)


@app.command(context_settings=PASS_ON, add_help_option=False)
def backup(context: typer.Context) -> None:
    """Copy the archive to a file."""
    must_exist(console_settings())
    _hand_over("services.store.tools", "backup", context)


@app.command(context_settings=PASS_ON, add_help_option=False)
def restore(context: typer.Context) -> None:
    """Make the archive from a copy."""
    _hand_over("services.store.tools", "restore", context)


def _must_know_run(arguments: Sequence[str]) -> None:
    """The run is looked up first: a tool of the store would make an archive where there is none."""
    if not HELP.intersection(arguments):
        named = [one for one in arguments[:1] if not one.startswith("-")]
        asyncio.run(query.status(console_settings(), named[0] if named else ""))


def _hand_over(module: str, command: str, context: typer.Context, with_log: bool = False) -> None:
    """Run a service's own tool: torch, for example, is imported below the engineer only."""
    arguments = [sys.executable, "-m", module, command, *context.args]
    with ExitStack() as stack:
        log = stack.enter_context(log_server(console_settings())) if with_log else {}
        status = subprocess.call(arguments, env={**os.environ, **log})
    raise typer.Exit(status)
