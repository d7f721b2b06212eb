"""`asi-arch export`: a run as files, in a tracker's folder, or one architecture as a package."""

import argparse
import asyncio
import json
import subprocess
import sys
from pathlib import Path

import typer

from services.chassis.errors import SettingsError
from services.console.commands.tools import STORE, hand_over, passes_arguments_on, require_run
from services.console.options import print_json
from services.console.tables import say
from services.local.archive import candidate_with_chain, run_and_candidates
from services.local.settings import client_settings, require_choice
from services.report.rows import as_dict


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
