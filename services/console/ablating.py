"""`asi-arch ablate CANDIDATE`."""

import asyncio
import json
from typing import Annotated

import typer
from rich.markup import escape

from services.console.app import Json, Run, app
from services.console.commands import ablate as ablations
from services.console.settings import console_settings
from services.console.tables import terminal


@app.command()
def ablate(
    candidate: Annotated[str, typer.Argument(help="an id, or a name that just one candidate has")],
    component: Annotated[
        list[str] | None, typer.Option(help="leave out only this one; may be given again; default: each in turn")
    ] = None,
    run: Run = "",
    as_json: Json = False,
) -> None:
    """Train the same program without each of its components, with the same seeds, and see which carries the gain."""
    console = terminal()

    def note(text: str) -> None:
        if not as_json:
            console.print(escape(text))

    found = ablations.ablate(console_settings(), run, candidate, component or (), note)
    original, parts = asyncio.run(found)
    if as_json:
        typer.echo(json.dumps([ablations.part_row(one) for one in parts], indent=2, ensure_ascii=False))
    else:
        ablations.print_parts(console, original, parts)
    if not any(one.gain for one in parts):
        raise typer.Exit(1)
