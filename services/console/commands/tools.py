"""Commands that are tools of the store or the engineer, which parse their arguments themselves.

check, train: the engineer's, which alone imports torch. All others: the store's.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from services.chassis.errors import NotPossible
from services.console.local.leash import leashed
from services.console.settings import console_settings, running_system

if TYPE_CHECKING:
    from services.contracts.candidate_pb2 import Candidate

ENGINEER = "services.engineer.tools"
STORE = "services.store.tools"
HELP = frozenset({"-h", "--help"})


def passes_arguments_on(function: Callable[[typer.Context], None]) -> Callable[[typer.Context], None]:
    """Mark a command whose arguments, `--help` among them, are for the tool that it runs."""
    function.passes_arguments_on = True  # type: ignore[attr-defined]
    return function


@passes_arguments_on
def check(context: typer.Context) -> None:
    """Screen and probe the program in a FILE: by the engineer of a system that runs here, else in a new sandbox."""
    system = running_system(console_settings())
    hand_over(ENGINEER, context, variables={"ASI_CHECKER_ADDRESS": system.addresses["checker"]} if system else {})


@passes_arguments_on
def train(context: typer.Context) -> None:
    """Train and evaluate the program in a FILE."""
    hand_over(ENGINEER, context)


@passes_arguments_on
def setup(context: typer.Context) -> None:
    """Create or verify streams, consumers, tables and indexes."""
    hand_over(STORE, context, with_log=True)


@passes_arguments_on
def replay(context: typer.Context) -> None:
    """Rebuild a RUN from its log alone and compare with the archive."""
    require_run(context.args)
    hand_over(STORE, context, with_log=True)


@passes_arguments_on
def import_(context: typer.Context) -> None:
    """Bring in a published archive (asi-arch PATH), own programs (programs FOLDER) or an exported log (jsonl or parquet
    PATH) as a run of its own."""
    hand_over(STORE, context, with_log=True)


@passes_arguments_on
def backup(context: typer.Context) -> None:
    """Copy the archive to a file."""
    if not HELP.intersection(context.args):
        console_settings().require_archive()
    hand_over(STORE, context)


@passes_arguments_on
def recover(context: typer.Context) -> None:
    """Make a damaged event log anew from the archive."""
    if not HELP.intersection(context.args):
        settings = console_settings()
        settings.require_archive()
        if (system := running_system(settings)) is not None:
            raise NotPossible(f"the services of {settings.data_dir} are up (process {system.pid}): stop them first")
    hand_over(STORE, context, with_log=True)


@passes_arguments_on
def restore(context: typer.Context) -> None:
    """Make the archive from a copy."""
    hand_over(STORE, context)


def require_run(arguments: Sequence[str]) -> None:
    """Raises NotFound for a run that does not exist: a tool of the store would make an archive where there is none."""
    from services.console.archive import run_status

    if not HELP.intersection(arguments):
        named = [argument for argument in arguments[:1] if not argument.startswith("-")]
        asyncio.run(run_status(console_settings(), named[0] if named else ""))


def hand_over(
    module: str, context: typer.Context, with_log: bool = False, variables: Mapping[str, str] | None = None
) -> None:
    """Run the tool's command of the same name with the same arguments; its exit status is ours.

    This process becomes the tool, unless a log is to be served to it meanwhile.
    """
    environment = {**os.environ, **(variables or {})}
    command = [sys.executable, "-m", module, str(context.info_name), *context.args]
    if not with_log or HELP.intersection(context.args):
        sys.stdout.flush()
        os.execve(sys.executable, command, environment)  # noqa: S606
    from services.console.log import log_environment

    with log_environment(console_settings()) as log:
        status = subprocess.call(leashed(command), env=environment | log)
    raise typer.Exit(status)


@passes_arguments_on
def cognition(context: typer.Context) -> None:
    """The cognition base: search QUERY, add FILE, ingest PAPER, stats [--run NAME]."""
    from services.console.archive import run_and_candidates

    arguments, given = list(context.args), None
    if arguments[:1] == ["stats"]:
        run = arguments.pop(arguments.index("--run") + 1) if "--run" in arguments[:-1] else ""
        arguments = [argument for argument in arguments if argument != "--run"]
        _, records = asyncio.run(run_and_candidates(console_settings(), run))
        given = json.dumps(_uses(records))
    command = [sys.executable, "-m", "services.analyst.cognition", *arguments]
    raise typer.Exit(subprocess.run(leashed(command), input=given, text=True, check=False).returncode)


def _uses(records: Sequence["Candidate"]) -> list[dict[str, object]]:
    """For each candidate with a parent: the entries it was shown, and its gain in fitness where both were scored."""
    fitness = {record.id: record.verdict.fitness.value for record in records if record.verdict.HasField("fitness")}
    return [
        {
            "entries": [hit.entry for hit in record.proposal.cognition],
            "gain": fitness[record.id] - fitness[record.proposal.parent]
            if record.id in fitness and record.proposal.parent in fitness
            else None,
        }
        for record in records
        if record.proposal.parent
    ]
