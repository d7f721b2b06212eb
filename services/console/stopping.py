"""`asi-arch stopping`: the rule that may cut trainings short, replayed over what was trained."""

import asyncio
import json

import typer

from services.console.app import Json, Named, Run, app, whole_run
from services.console.commands import inspect
from services.console.commands import stopping as rule
from services.console.settings import console_settings
from services.console.tables import terminal


@app.command()
def stopping(named: Named = "", run: Run = "", as_json: Json = False) -> None:
    """What stopping by curve extrapolation would have saved in a run, and which finalists it would have lost."""
    _, records = asyncio.run(inspect.all_of(console_settings(), whole_run(named, run)))
    found = rule.replays(records)
    if as_json:
        typer.echo(json.dumps([rule.replay_row(one) for one in found], indent=2))
    elif found:
        rule.print_replays(terminal(), found)
    if not found:
        typer.echo(f"nothing can be said: {rule.too_few(records)}", err=True)
        raise typer.Exit(1)
