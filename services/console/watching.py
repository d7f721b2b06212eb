"""The command `watch`."""

import asyncio
import json
from contextlib import aclosing
from typing import Annotated

import typer
from rich.live import Live

from services.console.app import Json, Run, app
from services.console.commands.watch import Scene, moments
from services.console.happenings import line
from services.console.progress import best_line
from services.console.scene import block
from services.console.settings import ConsoleSettings, console_settings
from services.console.tables import terminal


@app.command()
def watch(
    run: Run = "",
    from_start: Annotated[bool, typer.Option("--from-start", help="first all that has happened already")] = False,
    as_json: Json = False,
) -> None:
    """A run as it happens; ends with the run, or with Ctrl-C, which disturbs nothing.

    A live table on a terminal, a line per event elsewhere, one JSON object per event with --json.
    """
    console = terminal()
    try:
        if console.is_terminal and not as_json:
            asyncio.run(_live(console_settings(), run, from_start))
        else:
            asyncio.run(_lines(console_settings(), run, from_start, as_json))
    except KeyboardInterrupt:
        return


async def _lines(settings: ConsoleSettings, run: str, from_start: bool, as_json: bool) -> None:
    scene: Scene | None = None
    async with aclosing(moments(settings, run, from_start)) as seen:
        async for moment in seen:
            scene = moment.scene
            if moment.happening is not None:
                typer.echo(json.dumps(moment.happening, ensure_ascii=False) if as_json else line(moment.happening))
    if scene is not None and not as_json:
        typer.echo(f"run {scene.status.run}: {scene.status.phase}; {best_line(scene.status)}")


async def _live(settings: ConsoleSettings, run: str, from_start: bool) -> None:
    console = terminal()
    with Live(console=console, refresh_per_second=4) as live:
        async with aclosing(moments(settings, run, from_start)) as seen:
            async for moment in seen:
                live.update(block(moment.scene, settings.data_dir))
