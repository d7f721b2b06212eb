"""`asi-arch export RUN --as module --candidate C --out DIR`: what the engineer's tool needs is asked of the archive."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from pathlib import Path

import typer

from services.chassis.errors import SettingsError
from services.console.commands import inspect, query
from services.console.settings import ConsoleSettings, console_settings


def asks_for_module(arguments: list[str]) -> bool:
    """Whether an `export` is for one architecture instead of a whole run."""
    return any(one.partition("=")[0] in ("--as", "--candidate") for one in arguments)


def export_module(arguments: list[str]) -> None:
    """Write the package. Raises SettingsError, NotFound, and typer.Exit with the tool's status."""
    asked = _parser().parse_args(arguments)
    if not asked.candidate:
        raise SettingsError("--as module needs --candidate: the id or name of one architecture.")
    settings = console_settings()
    content = json.dumps(asyncio.run(_content(settings, asked.run, asked.candidate)))
    out: Path = asked.out or Path(asked.candidate)
    command = [sys.executable, "-m", "services.engineer.export", "--out", str(out)]
    command += ["--vocabulary", str(asked.vocabulary)] if asked.vocabulary else []
    done = subprocess.run(command, input=content, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
    package = done.stdout.strip()
    told = {"run": asked.run, "candidate": asked.candidate, "path": str(out), "package": Path(package).name}
    typer.echo(json.dumps(told) if asked.json else f"{package}: see {out / 'README.md'}")


async def _content(settings: ConsoleSettings, run: str, candidate: str) -> dict[str, object]:
    """The record, its run and its chain as the contracts' JSON."""
    record, links = await inspect.chain(settings, run, candidate)
    status = await query.status(settings, record.run)
    return {
        "candidate": json.loads(query.as_json(record)),
        "run": json.loads(query.as_json(status)),
        "chain": [json.loads(query.as_json(one)) for one in links],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asi-arch export", description="One architecture as a Python package.")
    parser.add_argument("run", nargs="?", default="", help="default: the newest run")
    parser.add_argument("--as", dest="format", choices=("module",), default="module")
    parser.add_argument("--candidate", help="an id, or a name that just one candidate has")
    parser.add_argument("--out", type=Path, help="folder; default: the candidate's name")
    parser.add_argument("--vocabulary", type=int, help="tokens of the tokenizer, where no weights were kept")
    parser.add_argument("--json", action="store_true")
    return parser
