"""`asi-arch report`, `gallery` and `web`: a run as a page, as cards, and live.

Each command imports what it draws with: matplotlib and aiohttp take half a second each.
"""

import asyncio
import errno
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from services.chassis.errors import NotFound, NotPossible
from services.console.options import Json, Run, RunArgument, chosen_run, print_json
from services.console.tables import paragraph, print_markdown, say
from services.local.archive import run_and_candidates
from services.local.processes import free_port
from services.local.settings import client_settings
from services.report.claims import card_markdown, cards, claims, sentences
from services.report.comparisons import ABLATIONS_FILE, SIZES_FILE, read_sizes


def report(
    argument: RunArgument = "",
    run: Run = "",
    out: Annotated[Path | None, typer.Option(help="folder; default: below the run's folder")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="open it in the browser")] = False,
    as_json: Json = False,
) -> None:
    """Write a run's report: a self-contained page, figures (PNG, SVG, PDF), and their data as CSV."""
    from services.report.page import write_report

    settings = client_settings()
    status, records = asyncio.run(run_and_candidates(settings, chosen_run(argument, run)))
    if not records:
        raise NotFound(f"run {status.run} has no candidate yet")
    own = settings.run_folder(status.run)
    page = write_report(
        status, records, out or own / "report", read_sizes(own / SIZES_FILE), read_sizes(own / ABLATIONS_FILE)
    )
    if open_page and not webbrowser.open(page.absolute().as_uri()):
        raise NotPossible(f"no browser can be started here; the report is {page}")
    print_json({"page": str(page)}) if as_json else say(str(page))


def gallery(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """Show model cards of confirmed discoveries, and every claim that was tested on fresh seeds and data."""
    status, records = asyncio.run(run_and_candidates(client_settings(), chosen_run(argument, run)))
    verdicts, discovery_cards = claims(records), cards(status, records)
    if as_json:
        shown = {card.id: asdict(card) for card in discovery_cards}
        print_json([{**claim, "card": shown.get(str(claim["id"]))} for claim in verdicts])
    elif not verdicts:
        say("no claim was tested yet: `asi-arch discover` verifies its finalists")
    else:
        for card in discovery_cards:
            print_markdown(card_markdown(card), card_markdown(card))
        for line in sentences(records, status.settings):
            say(paragraph(line, indent=4))


def web(
    port: Annotated[int, typer.Option(min=0, max=65535, help="port on this machine; 0: a free one")] = 8070,
    host: Annotated[
        str, typer.Option(help="address to listen on; the page is read-only and has no login")
    ] = "127.0.0.1",
) -> None:
    """Serve the live page: tree, leaderboard, candidates, progress. Ctrl-C ends it."""
    from services.web.app import serve

    try:
        asyncio.run(serve(client_settings(), host, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            reason = error.strerror or error
            raise NotPossible(f"--host {host} with --port {port} cannot be listened on: {reason}") from None
        free = free_port(range(port + 1, min(port + 100, 65535)))
        raise NotPossible(f"port {port} of {host} is in use: try `asi-arch web --port {free}`") from None
