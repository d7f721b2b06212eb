"""The command line: flags in, text or JSON out, one sentence and a non-zero status for whatever cannot be.

Exit status: 0 done, 1 the answer is no (nothing found, a check failed, a run without a result), 2 a flag or setting is
impossible, 130 interrupted and drained.
"""

import asyncio
import json
import sys
from typing import Annotated

import grpc.aio
import typer

from services.chassis import logs
from services.chassis.errors import BusLost, Denied, NotFound, NotPossible, SettingsError, Transient, sentence
from services.console import (  # noqa: F401 - importing them registers their commands
    ablating,
    asking,
    dead_letters,
    discovering,
    doing,
    minds,
    scaling,
    stopping,
    watching,
)
from services.console.app import INTERRUPTED, Json, app
from services.console.commands import run as discovery
from services.console.commands.joining import join
from services.console.ending import tell_ending
from services.console.forks import fork_of
from services.console.local.processes import ServiceFailed
from services.console.local.system import AlreadyRunning
from services.console.panels import arrange
from services.console.plan import Flags, checked_run_name
from services.console.progress import Progress
from services.console.settings import console_settings
from services.console.tables import terminal


@app.command()
def run(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="name of the run; default: r1, r2, …")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with --run, or with the newest run")] = False,
    joins: Annotated[
        bool, typer.Option("--join", help="leave the run to services that are up already, beside their other runs")
    ] = False,
    fork: Annotated[
        str,
        typer.Option(metavar="RUN[@EVENT]", help="begin with that run's history up to an event (sequence or id)"),
    ] = "",
    scale: Annotated[str, typer.Option(help="mini, tiny, explore, verify or final")] = "tiny",
    mind: Annotated[str, typer.Option(help="offline, openai or recorded:RUN[@SEQUENCE]")] = "offline",
    candidates: Annotated[
        int | None, typer.Option(min=0, help="proposals; default at tiny: 6, beside the baselines")
    ] = None,
    hours: Annotated[float | None, typer.Option(min=0, help="wall-clock hours")] = None,
    gpu_hours: Annotated[float | None, typer.Option(min=0, help="GPU-hours")] = None,
    tokens: Annotated[int | None, typer.Option(min=0, help="language-model tokens")] = None,
    money: Annotated[float | None, typer.Option(min=0, help="US dollars for language models")] = None,
    seats: Annotated[int, typer.Option(min=1, help="candidates in flight at once")] = 2,
    seed: Annotated[int, typer.Option(help="of every random draw of the run")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="trainings per candidate")] = 1,
    baseline_seeds: Annotated[int, typer.Option(min=1, help="trainings per baseline")] = 1,
    baselines: Annotated[str, typer.Option(help="names in the zoo, commas between; the first is the root")] = "",
    fitness: Annotated[str, typer.Option(help="paper (mean of three) or code (their sum)")] = "paper",
    parent_policy: Annotated[str, typer.Option(help="paper, uniform, power-law, uct or islands")] = "paper",
    promotion: Annotated[str, typer.Option(help="none, paper or halving")] = "none",
    judge_times: Annotated[int, typer.Option(min=1, help="how often a language-model judge is asked")] = 1,
    without: Annotated[list[str] | None, typer.Option(help="switch off: cognition, analysis, judge")] = None,
    random_parent: Annotated[bool, typer.Option("--random-parent", help="draw parents blindly")] = False,
    best_of: Annotated[int, typer.Option(min=1, help="proposals drawn for each one kept")] = 1,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="override of the scale")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option("--policy", metavar="NAME=VALUE", help="of the run, as in leakage=probe")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the whole laboratory on this machine: baselines, then new candidates, to a ranked summary."""
    flags = Flags(
        scale=scale, mind=mind, candidates=candidates, hours=hours, gpu_hours=gpu_hours, tokens=tokens, money=money,
        seats=seats, seed=seed, candidate_seeds=seeds, baseline_seeds=baseline_seeds,
        baselines=[one.strip() for one in baselines.split(",") if one.strip()], fitness=fitness,
        parent_policy=parent_policy, promotion=promotion, judge_times=judge_times, without=without or (),
        random_parent=random_parent, best_of=best_of, overrides=override or (), policies=policy or (),
    )  # fmt: skip
    settings = console_settings()
    console = terminal()
    wanted = checked_run_name(name) if name else None
    origin = fork_of(fork, context, resume) if fork else None
    if joins:
        joined = asyncio.run(join(settings, flags, wanted, origin))
        typer.echo(json.dumps({"run": joined}) if as_json else f"run {joined} has begun; see `asi-arch watch`")
        return
    progress = Progress(console, quiet=as_json)
    outcome = asyncio.run(discovery.discover(settings, flags, wanted, resume, progress, origin))
    tell_ending(console, settings, outcome, as_json)


arrange(app)


def main() -> None:
    """The entry point: what was foreseen to go wrong ends in one sentence."""
    logs.configure("console", "warning")
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except SettingsError as error:
        _fail(str(error), 2)
    except (Denied, NotFound, NotPossible, AlreadyRunning, ServiceFailed, BusLost, Transient, OSError) as error:
        _fail(sentence(error), 1)
    except grpc.aio.AioRpcError as error:
        _fail(error.details() or error.code().name, 2 if error.code() is grpc.StatusCode.INVALID_ARGUMENT else 1)


def _fail(sentence: str, code: int) -> None:
    sys.stderr.write(f"asi-arch: {sentence}\n")
    sys.exit(code)
