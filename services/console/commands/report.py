"""`asi-arch report`: a run as one page that opens without a network."""

import asyncio
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from services.chassis.errors import NotFound, NotPossible
from services.console.archive import run_and_candidates
from services.console.commands.sizes import FILE, read_sizes
from services.console.options import Json, Run, RunArgument, chosen_run, print_json
from services.console.report import write_report
from services.console.settings import console_settings
from services.console.tables import say


def report(
    argument: RunArgument = "",
    run: Run = "",
    out: Annotated[Path | None, typer.Option(help="folder; default: below the run's own")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="show it in the browser")] = False,
    as_json: Json = False,
) -> None:
    """Write a run's report: a page that opens without a network, figures (PNG, SVG, PDF), and the CSV behind each."""
    settings = console_settings()
    status, records = asyncio.run(run_and_candidates(settings, chosen_run(argument, run)))
    if not records:
        raise NotFound(f"run {status.run} has no candidate yet")
    own = settings.run_folder(status.run)
    page = write_report(status, records, out or own / "report", read_sizes(own / FILE))
    if open_page and not webbrowser.open(page.absolute().as_uri()):
        raise NotPossible(f"no browser can be started here; the report is {page}")
    print_json({"page": str(page)}) if as_json else say(str(page))
