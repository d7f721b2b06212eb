"""What a run says when it ends: the ranking, what was found and how sure it is, and where everything lies."""

import json

import typer
from rich.console import Console
from rich.markup import escape

from services.console.app import INTERRUPTED
from services.console.commands.gallery import sentences
from services.console.commands.run import Outcome
from services.console.progress import clock
from services.console.rows import ranked
from services.console.settings import ConsoleSettings
from services.console.tables import mixed_precision, ranking


def tell_ending(console: Console, settings: ConsoleSettings, outcome: Outcome, as_json: bool) -> None:
    """Print it. Raises typer.Exit: 130 after an interruption, 1 for a run without any score."""
    if as_json:
        typer.echo(json.dumps(ranked(outcome.rows), indent=2, ensure_ascii=False))
    else:
        _tell(console, settings, outcome)
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not any(one["fitness"] is not None for one in outcome.rows):
        raise typer.Exit(1)


def _tell(console: Console, settings: ConsoleSettings, outcome: Outcome) -> None:
    about = outcome.status
    console.print(ranking(ranked(outcome.rows)))
    if warning := mixed_precision(outcome.rows):
        console.print(f"[yellow]{warning}[/yellow]")
    if about.settings.promotion not in ("", "none") and not outcome.interrupted:
        for line in sentences(outcome.records, about.settings):
            console.print(escape(line), soft_wrap=True)
    ending = "paused" if outcome.interrupted else about.stop_reason or about.phase
    console.print(f"run {about.run}: {ending}; {clock(about.spent.seconds)}, {about.sequence} events")
    places = [("report", outcome.report), ("archive", settings.archive_place),
              ("event log", settings.log_place), ("service logs", settings.data_dir / "logs")]  # fmt: skip
    for title, path in places:
        if path is not None:
            console.print(f"  {title:<13}{path}", soft_wrap=True)
    if outcome.interrupted:
        console.print(f"go on with: asi-arch run --resume --run {about.run}", soft_wrap=True)
