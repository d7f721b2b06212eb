"""`asi-arch report` and `asi-arch web`: a run as a page that opens without a network, and the live page.

What draws them is imported by the command that is called: matplotlib and aiohttp take half a second each.
"""

import asyncio
import errno
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from services.chassis.errors import NotFound, NotPossible
from services.console.archive import run_and_candidates
from services.console.commands.ablate import FILE as ABLATIONS
from services.console.commands.sizes import FILE, read_sizes
from services.console.options import Json, Run, RunArgument, chosen_run, print_json
from services.console.processes import free_port
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
    from services.console.report import write_report

    settings = console_settings()
    status, records = asyncio.run(run_and_candidates(settings, chosen_run(argument, run)))
    if not records:
        raise NotFound(f"run {status.run} has no candidate yet")
    own = settings.run_folder(status.run)
    page = write_report(status, records, out or own / "report", read_sizes(own / FILE), read_sizes(own / ABLATIONS))
    if open_page and not webbrowser.open(page.absolute().as_uri()):
        raise NotPossible(f"no browser can be started here; the report is {page}")
    print_json({"page": str(page)}) if as_json else say(str(page))


def web(
    port: Annotated[int, typer.Option(min=0, max=65535, help="port on this machine; 0 takes a free one")] = 8070,
    host: Annotated[
        str, typer.Option(help="address to listen on; the page is read-only and has no login")
    ] = "127.0.0.1",
) -> None:
    """The live page: tree, leaderboard, candidates, progress. Ctrl-C ends it."""
    from services.console.web import serve

    try:
        asyncio.run(serve(console_settings(), host, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        other = free_port(range(port + 1, min(port + 100, 65535)))
        raise NotPossible(f"port {port} of {host} is in use: try `asi-arch web --port {other}`") from None
