"""Commands that look into heads: a verdict once more, one proposal, the exact prompt. None of them records anything."""

import asyncio
import json
import os
import subprocess
import sys
from typing import Annotated

import typer

from services.chassis.errors import SettingsError
from services.console.app import Json, Run, app
from services.console.commands import calibrate
from services.console.local.readers import answering
from services.console.settings import console_settings
from services.console.tables import terminal

ASKED_BY = {
    "propose": "researcher", "summarise": "researcher", "judge_novelty": "researcher", "revise": "engineer",
    "score": "judge", "analyse": "analyst",
}  # fmt: skip


@app.command()
def judge(
    candidate: Annotated[str, typer.Argument(help="an id, or a name that just one candidate has")] = "",
    baselines: Annotated[bool, typer.Option("--calibrate", help="every baseline of the run instead")] = False,
    tolerance: Annotated[float, typer.Option(min=0, help="drift in points that still counts as none")] = 1.0,
    run: Run = "",
    as_json: Json = False,
) -> None:
    """Judge a candidate, or with --calibrate the baselines, once more, and report the drift. Nothing is recorded.

    Exits 1 when the drift exceeds --tolerance, or nothing could be compared.
    """
    if bool(candidate) == baselines:
        raise SettingsError("say what to judge: either a CANDIDATE or --calibrate.")
    settings = console_settings()
    if baselines:
        _, rows = asyncio.run(calibrate.calibration(settings, run))
    else:
        rows = [asyncio.run(calibrate.verdict(settings, run, candidate))]
    found = calibrate.largest(rows)
    if as_json:
        told = {"largest_drift": found, "tolerance": tolerance, "verdicts": [one.as_row() for one in rows]}
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        calibrate.print_drifts(terminal(), rows)
        typer.echo("nothing to compare" if found is None else f"largest drift: {found:.2f} points")
    if found is None or found > tolerance:
        raise typer.Exit(1)


@app.command()
def propose(
    parent: Annotated[str, typer.Option(help="an id, or a name that just one candidate has")],
    mind: Annotated[str, typer.Option(help="offline or openai")] = "offline",
    seed: Annotated[int | None, typer.Option(help="of the draw; default: the run's")] = None,
    run: Run = "",
    as_json: Json = False,
) -> None:
    """One proposal from a parent that the archive does not hold yet, without a run. Nothing is kept or trained."""
    arguments = ["propose", "--parent", parent, "--mind", mind, "--run", run]
    arguments += [] if seed is None else ["--seed", str(seed)]
    _ask("services.researcher.tools", arguments, as_json, "archive", "cognition")


@app.command()
def prompt(
    role: Annotated[str, typer.Argument(metavar="ROLE", help=", ".join(ASKED_BY))],
    candidate: Annotated[str, typer.Option(help="an id, or a name that just one candidate has")],
    run: Run = "",
    as_json: Json = False,
) -> None:
    """The exact prompt that would be sent about a candidate; nothing is sent.

    propose asks for a child of the candidate. With --json the answer's schema is shown too, and the body of the request
    where the environment describes a model.
    """
    if role not in ASKED_BY:
        also = "; a paper is read by `asi-arch cognition ingest`" if role == "extract" else ""
        raise SettingsError(f"ROLE is {role!r}; choose one of {', '.join(ASKED_BY)}{also}.")
    needed = ("archive", "cognition") if role == "propose" else ("archive",)
    arguments = [role, "--candidate", candidate, "--run", run]
    _ask(f"services.{ASKED_BY[role]}.prompt", arguments, as_json, *needed)


def _ask(module: str, arguments: list[str], as_json: bool, *needed: str) -> None:
    """Run a service's own tool beside those whom it asks."""
    command = [sys.executable, "-m", module, *arguments, *(["--json"] if as_json else [])]
    raise typer.Exit(asyncio.run(_status_of(command, needed)))


async def _status_of(command: list[str], needed: tuple[str, ...]) -> int:
    async with answering(console_settings(), *needed) as addresses:
        environment = {**os.environ, **addresses}
        return await asyncio.to_thread(lambda: subprocess.run(command, env=environment, check=False).returncode)
