"""`asi-arch report`, `gallery`, `web` and `export`: a run as a page, as cards, live, and as files.

Each command imports what it draws with: matplotlib and aiohttp take half a second each.
"""

import argparse
import asyncio
import errno
import json
import subprocess
import sys
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from services.chassis.errors import NotFound, NotPossible, SettingsError
from services.console.commands.tools import STORE, hand_over, passes_arguments_on, require_run
from services.console.options import Json, Run, RunArgument, chosen_run, print_json
from services.console.tables import paragraph, print_markdown, say
from services.local.archive import candidate_with_chain, run_and_candidates
from services.local.processes import free_port
from services.local.settings import client_settings, require_choice
from services.report.claims import card_markdown, cards, claims, sentences
from services.report.comparisons import ABLATIONS_FILE, SIZES_FILE, read_sizes
from services.report.rows import as_dict


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


@passes_arguments_on
def export(context: typer.Context) -> None:
    """Export a RUN: its whole log (jsonl), tables (parquet), the published format, or one architecture.

    `export RUN --as module --candidate C --out DIR` writes one architecture as a Python package that needs only torch.
    `--to wandb|mlflow|tensorboard` writes all candidates to an experiment tracker's folder.
    """
    if any(argument.partition("=")[0] == "--to" for argument in context.args):
        _export_to_tracker(context.args)
    elif any(argument.partition("=")[0] in ("--as", "--candidate") for argument in context.args):
        _export_module(context.args)
    else:
        require_run(context.args)
        hand_over(STORE, context, with_log=True)


def _export_to_tracker(arguments: list[str]) -> None:
    """Write every candidate of a run. Raises SettingsError, NotFound."""
    from services.console.commands.track import TRACKERS, open_tracker  # with the client of the bus

    parser = _parser("A run's candidates in a tracker's folder.", "named after the tracker, in the data folder")
    parser.add_argument("--to", required=True, metavar="TRACKER", help=f"one of {', '.join(TRACKERS)}")
    options = parser.parse_args(arguments)
    settings = client_settings()
    out: Path = options.out or settings.data_dir / options.to
    require_choice("--to", options.to, TRACKERS)
    status, records = asyncio.run(run_and_candidates(settings, options.run))
    tracker = open_tracker(options.to, out)
    for record in records:
        tracker.write(record)
    tracker.close()
    if options.json:
        print_json({"run": status.run, "candidates": len(records), "path": str(out)})
    else:
        say(f"{len(records)} candidates of run {status.run} are in {out}")


def _export_module(arguments: list[str]) -> None:
    """Write the package. Raises SettingsError, NotFound, and typer.Exit with the tool's status."""
    parser = _parser("One architecture as a Python package.", "the candidate's name")
    parser.add_argument("--as", dest="format", choices=("module",), default="module")
    parser.add_argument("--candidate", help="an id, or a name that just one candidate has")
    parser.add_argument("--vocabulary", type=int, help="tokens of the tokenizer, if no weights were stored")
    options = parser.parse_args(arguments)
    if not options.candidate:
        raise SettingsError("--as module needs --candidate: the id or name of one architecture.")
    status, record, links = asyncio.run(candidate_with_chain(client_settings(), options.run, options.candidate))
    content = {"candidate": as_dict(record), "run": as_dict(status), "chain": [as_dict(link) for link in links]}
    out: Path = options.out or Path(options.candidate)
    command = [sys.executable, "-m", "services.engineer.export", "--out", str(out)]
    command += ["--vocabulary", str(options.vocabulary)] if options.vocabulary else []
    done = subprocess.run(command, input=json.dumps(content), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
    package = done.stdout.strip()
    if options.json:
        name = Path(package).name
        print_json({"run": options.run, "candidate": options.candidate, "path": str(out), "package": name})
    else:
        say(f"{package}: see {out / 'README.md'}")


def _parser(description: str, default_folder: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asi-arch export", description=description)
    parser.add_argument("run", nargs="?", default="", help="default: the newest run")
    parser.add_argument("--out", type=Path, help=f"folder; default: {default_folder}")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    return parser
