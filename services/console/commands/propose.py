"""`asi-arch propose` and `asi-arch prompt`: for debugging what a language model is asked. Nothing is recorded."""

import asyncio
import os
import sys
from typing import Annotated

import typer

from services.chassis.errors import SettingsError
from services.console.local.system import answering
from services.console.options import Json, Run
from services.console.settings import console_settings

ASKED_BY = {
    "propose": "researcher", "summarise": "researcher", "judge_novelty": "researcher", "revise": "engineer",
    "score": "judge", "analyse": "analyst",
}  # fmt: skip


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
    _run_tool("services.researcher.tools", arguments, as_json, "archive", "cognition")


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
    _run_tool(f"services.{ASKED_BY[role]}.prompt", [role, "--candidate", candidate, "--run", run], as_json, *needed)


def _run_tool(module: str, arguments: list[str], as_json: bool, *needed: str) -> None:
    """Run a service's own tool beside the services that it asks; its exit status is ours."""
    command = [sys.executable, "-m", module, *arguments, *(["--json"] if as_json else [])]

    async def status() -> int:
        async with answering(console_settings(), *needed) as addresses:
            return await (await asyncio.create_subprocess_exec(*command, env={**os.environ, **addresses})).wait()

    raise typer.Exit(asyncio.run(status()))
