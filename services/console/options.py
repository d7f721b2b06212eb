"""Options and arguments that several commands share, and the completion of their values in a shell."""

import asyncio
import functools
import json
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

INTERRUPTED = 130
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""For commands whose arguments are parsed by a tool."""
P = ParamSpec("P")
R = TypeVar("R")


def complete_runs(incomplete: str) -> list[str]:
    """Runs with a folder in ASI_DATA_DIR, since asking a service would take too long."""
    return [name for name in _folders("runs") | _folders("work") if name.startswith(incomplete)]


def complete_candidates(context: typer.Context, incomplete: str) -> list[str]:
    """Candidates trained on this machine, of --run or of all runs."""
    run = str(context.params.get("run") or "")
    runs = [run] if run else _folders("work")
    names = {candidate for name in runs for candidate in _folders(f"work/{name}")}
    return [name for name in sorted(names) if name.startswith(incomplete) and "-" not in name]


def _folders(below: str) -> set[str]:
    folder = Path(os.environ.get("ASI_DATA_DIR", ".data")) / below
    return {child.name for child in folder.iterdir() if child.is_dir()} if folder.is_dir() else set()


Run = Annotated[
    str, typer.Option("--run", metavar="NAME", help="the run; default: the newest", autocompletion=complete_runs)
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", show_default=False, help="the same as --run", autocompletion=complete_runs)
]
Candidate = Annotated[
    str, typer.Argument(help="an id, or a name that just one candidate has", autocompletion=complete_candidates)
]
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]


def chosen_run(argument: str, option: str) -> str:
    """The run of the argument or --run, empty for the newest. Raises BadParameter for two different ones."""
    if argument and option and argument != option:
        raise typer.BadParameter(f"two runs are named, {argument} and {option}: give one")
    return argument or option


def print_json(value: object) -> None:
    """Print a value as JSON, with escapes where the locale lacks letters."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii="utf" not in (sys.stdout.encoding or "").lower()))


def run_async(command: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """A command that is written as a coroutine, as a plain function."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return asyncio.run(command(*args, **kwargs))

    return run
