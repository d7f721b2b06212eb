"""The commands `autoscale` and `worker`."""

import asyncio
import json
from collections.abc import Callable
from typing import Annotated

import typer

from services.console.app import Json, app
from services.console.commands import scale
from services.console.plan import SCALES, one_of
from services.console.settings import console_settings


@app.command()
def autoscale(
    stage: Annotated[str, typer.Option(help="whose queue is followed: tiny, explore, verify or final")] = "tiny",
    least: Annotated[int, typer.Option("--min", min=0, help="engineers at least")] = 0,
    most: Annotated[
        int | None, typer.Option("--max", min=1, help="engineers at most; default: one per GPU, or per core")
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, help="seconds between two looks at the queue")] = 2.0,
    calm: Annotated[float, typer.Option(min=0, help="seconds that less work must last before one is drained")] = 30.0,
    as_json: Json = False,
) -> None:
    """As many engineers on this machine as candidates wait or are in training; Ctrl-C drains them all.

    Beside `asi-arch run` in the same folder, or for a laboratory elsewhere (ASI_NATS_URL, ASI_ARCHIVE_ADDRESS). What is
    taken away finishes, or checkpoints and hands back: nothing is killed.
    """
    one_of("--stage", stage, SCALES)
    bounds = scale.Bounds(least, most, every, calm)
    asyncio.run(scale.autoscale(console_settings(), stage, bounds, _teller(as_json)))


@app.command()
def worker(
    stages: Annotated[str, typer.Option(help="stages to train, commas between")] = "explore",
    as_json: Json = False,
) -> None:
    """Join a laboratory elsewhere: an engineer per visible GPU, else one on the CPU; SIGTERM or Ctrl-C drains.

    ASI_NATS_URL and ASI_ARCHIVE_ADDRESS say where it is, CUDA_VISIBLE_DEVICES which GPUs it gets. Artifacts go where
    ASI_ARTIFACTS_URL says: all engineers of a run need the same place.
    """
    names = [one.strip() for one in stages.split(",") if one.strip()]
    for name in names:
        one_of("--stages", name, SCALES)
    asyncio.run(scale.work(console_settings(), names, _teller(as_json)))


def _teller(as_json: bool) -> Callable[[scale.Moment], None]:
    def tell(moment: scale.Moment) -> None:
        if as_json:
            typer.echo(json.dumps(moment))
        else:
            draining = f", {moment['draining']} draining" if moment["draining"] else ""
            queue = f"{moment['waiting']} waiting, {moment['in_hand']} in hand: "
            typer.echo(f"{queue}{moment['engineers']} engineers{draining}")

    return tell
