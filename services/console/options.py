"""Options and arguments that several commands share, and the completion of their values in a shell."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from services.chassis.errors import SettingsError

INTERRUPTED = 130


def complete_runs(incomplete: str) -> list[str]:
    """Runs that this machine has worked on, from the folders of ASI_DATA_DIR: asking a service would take too long."""
    return [name for name in _folders("runs") | _folders("work") if name.startswith(incomplete)]


def complete_candidates(context: typer.Context, incomplete: str) -> list[str]:
    """Candidates of the run named by --run, else of all runs, that this machine has trained."""
    run = str(context.params.get("run") or "")
    runs = [run] if run else _folders("work")
    names = {candidate for name in runs for candidate in _folders(f"work/{name}")}
    return [name for name in sorted(names) if name.startswith(incomplete) and "-" not in name]


def _folders(below: str) -> set[str]:
    place = Path(os.environ.get("ASI_DATA_DIR", ".data")) / below
    return {folder.name for folder in place.iterdir() if folder.is_dir()} if place.is_dir() else set()


Run = Annotated[
    str, typer.Option("--run", metavar="NAME", help="the run; default: the newest", autocompletion=complete_runs)
]
RunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", show_default=False, help="the same as --run", autocompletion=complete_runs),
]
Candidate = Annotated[
    str, typer.Argument(help="an id, or a name that just one candidate has", autocompletion=complete_candidates)
]
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]


def chosen_run(argument: str, option: str) -> str:
    """The run given as an argument or with --run, empty for the newest. Raises BadParameter for two different ones."""
    if argument and option and argument != option:
        raise typer.BadParameter(f"two runs are named, {argument} and {option}: give one")
    return argument or option


def print_json(value: object) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def names_in(text: str) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def near(word: str, known: Iterable[str]) -> str:
    """A suggestion of similar names, as in "; did you mean gla?"; empty if none is similar."""
    import difflib

    names = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower(), names, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(names[match] for match in matches)}?" if matches else ""


def one_of(flag: str, value: str, known: Sequence[str]) -> None:
    """Raises SettingsError with suggestions unless the value is known."""
    if value not in known:
        choice = near(value, known) or f"; choose one of {', '.join(known)}."
        raise SettingsError(f"{flag} is {value!r}{choice}")
