"""`asi-arch discover`: the whole story in one command, from the baselines to a verdict."""

import asyncio
from dataclasses import replace
from typing import Annotated

import typer

from services.console.app import Json, app
from services.console.commands import run as discovery
from services.console.ending import tell_ending
from services.console.plan import Flags, checked_run_name
from services.console.progress import Progress
from services.console.settings import console_settings
from services.console.tables import terminal

# Sized for half an hour on two quiet CPU cores: a third of it is the search, the rest goes into second trainings on
# more data. A candidate may have 10 % more parameters or fewer, and 10 % more operations, than the root.
PRESET = Flags(
    scale="tiny",
    candidates=8,
    baseline_seeds=2,
    baselines=("delta_net", "gated_delta_net", "delta_net_value_skip", "gla"),
    promotion="halving",
    overrides=("tokens=600000",),
    policies=("eta=4", "stages=tiny:tokens=1000000:seeds=5", "parameters=0.1", "flops=+0.1"),
)


@app.command()
def discover(
    name: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="name of the run; default: r1, r2, …")
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="proposals; every fourth is trained again")] = 8,
    mind: Annotated[str, typer.Option(help="offline, openai or recorded:RUN")] = "offline",
    seed: Annotated[int, typer.Option(help="of every random draw of the run")] = 1,
    as_json: Json = False,
) -> None:
    """Search, train the best again with fresh seeds, data and the strongest controls, and say what holds.

    About half an hour on two quiet CPU cores. The same as `asi-arch run` with these flags: --promotion halving
    --baseline-seeds 2 --set tokens=600000 --policy stages=tiny:tokens=1000000:seeds=5 --policy flops=+0.1.
    """
    flags = replace(PRESET, candidates=candidates, mind=mind, seed=seed)
    settings, console = console_settings(), terminal()
    wanted = checked_run_name(name) if name else None
    outcome = asyncio.run(discovery.discover(settings, flags, wanted, False, Progress(console, quiet=as_json)))
    tell_ending(console, settings, outcome, as_json)
