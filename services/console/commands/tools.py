"""Commands that run a service's tool; most tools parse their arguments themselves."""

import asyncio
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.chassis.errors import NotPossible, SettingsError
from services.console.options import Json, Run
from services.local.processes import ends_with_parent

if TYPE_CHECKING:
    from services.contracts.candidate_pb2 import Candidate
    from services.local.settings import ClientSettings, RunningSystem

ENGINEER = "services.engineer.tools"
STORE = "services.store.tools"
HELP = frozenset({"-h", "--help"})


def passes_arguments_on(function: Callable[[typer.Context], None]) -> Callable[[typer.Context], None]:
    """Mark a command whose arguments, including `--help`, are parsed by its tool."""
    function.passes_arguments_on = True  # type: ignore[attr-defined]
    return function


@passes_arguments_on
def check(context: typer.Context) -> None:
    """Screen and probe the program in a FILE, by the engineer of a running system, else in a new sandbox."""
    system = None
    if Path(os.environ.get("ASI_DATA_DIR", ".data"), "system.json").exists():
        system = _settings_and_system()[1]
    hand_over(ENGINEER, context, variables={"ASI_CHECKER_ADDRESS": system.addresses["checker"]} if system else {})


def _settings_and_system() -> "tuple[ClientSettings, RunningSystem | None]":
    """The settings, and the system that runs in their data folder.

    Imported on use, as it takes a tenth of a second: the tool of `check` reads the settings while its sandbox starts.
    """
    from services.local.settings import client_settings, running_system

    settings = client_settings()
    return settings, running_system(settings)


def _handed_over(module: str, with_log: bool = False) -> Callable[[typer.Context], None]:
    """A command that is the tool's command of the same name."""

    @passes_arguments_on
    def command(context: typer.Context) -> None:
        hand_over(module, context, with_log)

    return command


train = _handed_over(ENGINEER)
setup = _handed_over(STORE, with_log=True)
import_ = _handed_over(STORE, with_log=True)
restore = _handed_over(STORE)


@passes_arguments_on
def replay(context: typer.Context) -> None:
    """Rebuild a RUN from its log alone and compare with the archive."""
    require_run(context.args)
    hand_over(STORE, context, with_log=True)


@passes_arguments_on
def backup(context: typer.Context) -> None:
    """Copy the archive to a file."""
    if not HELP.intersection(context.args):
        _settings_and_system()[0].require_archive()
    hand_over(STORE, context)


@passes_arguments_on
def recover(context: typer.Context) -> None:
    """Rebuild a damaged event log from the archive."""
    if not HELP.intersection(context.args):
        settings, system = _settings_and_system()
        settings.require_archive()
        if system is not None:
            raise NotPossible(f"the services of {settings.data_dir} are up (process {system.pid}): stop them first")
    hand_over(STORE, context, with_log=True)


def require_run(arguments: Sequence[str]) -> None:
    """Raises NotFound for a run that does not exist, before a tool creates an empty archive."""
    from services.local.archive import run_status

    if not HELP.intersection(arguments):
        named = [argument for argument in arguments[:1] if not argument.startswith("-")]
        asyncio.run(run_status(_settings_and_system()[0], named[0] if named else ""))


def hand_over(
    module: str, context: typer.Context, with_log: bool = False, variables: Mapping[str, str] | None = None
) -> None:
    """Run the tool's command of the same name, in this process unless it needs a log, and exit with its status."""
    arguments = [str(context.info_name), *context.args]
    if not with_log or HELP.intersection(context.args):
        os.environ.update(variables or {})
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    from services.local.log import log_environment

    with log_environment(_settings_and_system()[0]) as log:
        command = ends_with_parent([sys.executable, "-m", module, *arguments])
        status = subprocess.call(command, env={**os.environ, **(variables or {}), **log})
    raise typer.Exit(status)


@passes_arguments_on
def cognition(context: typer.Context) -> None:
    """The cognition base: search QUERY, add FILE, ingest PAPER, stats [--run NAME]."""
    from services.local.archive import run_and_candidates

    arguments, usage = list(context.args), None
    if arguments[:1] == ["stats"] and not HELP.intersection(arguments):
        run = arguments.pop(arguments.index("--run") + 1) if "--run" in arguments[:-1] else ""
        arguments = [argument for argument in arguments if argument != "--run"]
        _, records = asyncio.run(run_and_candidates(_settings_and_system()[0], run))
        usage = json.dumps(_uses(records))
    command = [sys.executable, "-m", "services.analyst.cognition", *arguments]
    raise typer.Exit(subprocess.run(ends_with_parent(command), input=usage, text=True, check=False).returncode)


def _uses(records: Sequence["Candidate"]) -> list[dict[str, object]]:
    """For each candidate with a parent: the entries it was shown, and its gain in fitness if both were scored."""
    fitness = {record.id: record.verdict.fitness.value for record in records if record.verdict.HasField("fitness")}
    uses: list[dict[str, object]] = []
    for record in (record for record in records if record.proposal.parent):
        own, parent = fitness.get(record.id), fitness.get(record.proposal.parent)
        gain = None if own is None or parent is None else own - parent
        uses.append({"entries": [hit.entry for hit in record.proposal.cognition], "gain": gain})
    return uses


ASKED_BY = {
    "propose": "researcher", "judge_novelty": "researcher", "revise": "engineer", "score": "judge",
    "analyse": "analyst",
}  # fmt: skip


def propose(
    parent: Annotated[str, typer.Option(help="an id, or a name that just one candidate has")],
    mind: Annotated[str, typer.Option(help="offline or openai")] = "offline",
    seed: Annotated[int | None, typer.Option(min=0, max=2**64 - 1, help="seed of the draw; default: the run's")] = None,
    run: Run = "",
    as_json: Json = False,
) -> None:
    """Show one proposal from a parent, without a run. Nothing is stored or trained."""
    from services.local.settings import require_choice

    require_choice("--mind", mind, ("offline", "openai"))
    _require_candidate(run, parent)
    arguments = ["propose", "--parent", parent, "--mind", mind, "--run", run]
    arguments += [] if seed is None else ["--seed", str(seed)]
    _run_tool("services.researcher.tools", arguments, as_json, "archive", "cognition")


def prompt(
    role: Annotated[str, typer.Argument(metavar="ROLE", help=", ".join(ASKED_BY))],
    candidate: Annotated[str, typer.Option(help="an id, or a name that just one candidate has")],
    parts: Annotated[bool, typer.Option("--parts", help="only the number of tokens of each part")] = False,
    run: Run = "",
    as_json: Json = False,
) -> None:
    """Show the exact prompt that would be sent about a candidate; nothing is sent.

    propose requests a child of the candidate. With --json the answer's schema is shown too, and the body of the request
    if the environment names a model.
    """
    if role not in ASKED_BY:
        also = "; a paper is read by `asi-arch cognition ingest`" if role == "extract" else ""
        raise SettingsError(f"ROLE is {role!r}; choose one of {', '.join(ASKED_BY)}{also}.")
    _require_candidate(run, candidate)
    needed = ("archive", "cognition") if role == "propose" else ("archive",)
    arguments = ["prompt", role, "--candidate", candidate, "--run", run, *(["--parts"] if parts else [])]
    _run_tool(f"services.{ASKED_BY[role]}.tools", arguments, as_json, *needed)


def _require_candidate(run: str, candidate: str) -> None:
    """Raises NotFound for an unknown candidate, before the services of a tool are started."""
    from services.local.archive import find_candidates

    asyncio.run(find_candidates(_settings_and_system()[0], run, candidate))


def _run_tool(module: str, arguments: list[str], as_json: bool, *needed: str) -> None:
    """Run a service's tool beside the services that it needs and exit with its status."""
    from services.local.system import service_addresses

    command = [sys.executable, "-m", module, *arguments, *(["--json"] if as_json else [])]

    async def status() -> int:
        settings, system = _settings_and_system()
        checker = {"ASI_CHECKER_ADDRESS": system.addresses["checker"]} if system else {}
        async with service_addresses(settings, *needed) as addresses:
            environment = {**checker, **os.environ, **addresses}
            return await (await asyncio.create_subprocess_exec(*command, env=environment)).wait()

    raise typer.Exit(asyncio.run(status()))
