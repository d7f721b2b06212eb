"""The commands `dead list|show|retry|drop`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from services.chassis.bus import Bus
from services.console.app import Json, Run, app
from services.console.archive import catch_up, open_archive
from services.console.commands import dead, inspect, query
from services.console.local.system import running_system
from services.console.log import open_log
from services.console.settings import ConsoleSettings, console_settings
from services.console.tables import terminal
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc, events_pb2

letters = typer.Typer(help="Messages that could not be handled: list, show, retry, drop.", no_args_is_help=False)
app.add_typer(letters, name="dead")

Which = Annotated[str, typer.Argument(metavar="LETTER", help="its number, or the candidate it is about")]
T = TypeVar("T")
Ask = Callable[[Bus, "archive_pb2_grpc.ArchiveAsyncStub", list[dead.Letter]], Awaitable[T]]


@letters.callback(invoke_without_command=True)
def plain(context: typer.Context, run: Run = "", as_json: Json = False) -> None:
    """Messages that could not be handled; without a further word, their list."""
    if context.invoked_subcommand is None:
        _list(run, as_json)


@letters.command("list")
def list_letters(run: Run = "", as_json: Json = False) -> None:
    """All dead letters of a run, oldest first, and what was done about each."""
    _list(run, as_json)


@letters.command()
def show(letter: Which, run: Run = "", as_json: Json = False) -> None:
    """The message, the event in it, and the traceback."""

    async def ask(bus: Bus, _: object, found: list[dead.Letter]) -> tuple[dead.Letter, events_pb2.Event]:
        one = dead.the_letter(found, letter)
        return one, events_pb2.Event.FromString(await bus.body_at(one.event.dead.sequence))

    one, work = asyncio.run(_asked(console_settings(), run, ask))
    if as_json:
        content = {"letter": dead.rows([one])[0], "traceback": one.event.dead.traceback or None,
                   "event": json.loads(query.as_json(work))}  # fmt: skip
        typer.echo(inspect.to_json(content))
    else:
        dead.print_letter(terminal(), one, work)


@letters.command()
def retry(letter: Which, run: Run = "", as_json: Json = False) -> None:
    """Publish a letter's work again: its rejected candidate goes on from there, as the same candidate.

    Nothing that it has been through is done again. With NATS credentials this takes the administrator's.
    """

    async def ask(bus: Bus, archive: archive_pb2_grpc.ArchiveAsyncStub, found: list[dead.Letter]) -> events_pb2.Event:
        return await dead.retry(bus, archive, dead.the_letter(found, letter))

    event = _done(run, ask)
    waits = "" if _alive(console_settings()) else "; it waits for services: `asi-arch run --resume`"
    _tell(event, as_json, f"{event.candidate} goes on from {event.id}{waits}")


@letters.command()
def drop(
    letter: Which,
    reason: Annotated[str, typer.Option(help="why nothing more is done about it")] = "",
    run: Run = "",
    as_json: Json = False,
) -> None:
    """Mark a letter as dealt with; its candidate stays as it ended."""

    async def ask(bus: Bus, _: object, found: list[dead.Letter]) -> events_pb2.Event:
        return await dead.drop(bus, dead.the_letter(found, letter), reason)

    event = _done(run, ask)
    _tell(event, as_json, f"{event.dead_dropped.dead} is dealt with")


def _list(run: str, as_json: bool) -> None:
    async def ask(_: Bus, __: object, found: list[dead.Letter]) -> list[dead.Letter]:
        return found

    found = dead.rows(asyncio.run(_asked(console_settings(), run, ask)))
    if as_json:
        typer.echo(inspect.to_json(found))
    else:
        dead.print_rows(terminal(), found)


async def _asked(settings: ConsoleSettings, run: str, ask: Ask[T]) -> T:
    async with open_archive(settings) as archive, open_log(settings) as bus:
        name = (await archive.GetRun(pb.RunRequest(run=run), timeout=30)).run
        return await ask(bus, archive, await dead.letters(bus, archive, name))


def _done(run: str, ask: Ask[events_pb2.Event]) -> events_pb2.Event:
    settings = console_settings()
    event = asyncio.run(_asked(settings, run, ask))
    catch_up(settings)
    return event


def _alive(settings: ConsoleSettings) -> bool:
    return settings.archive_is_elsewhere or running_system(settings) is not None


def _tell(event: events_pb2.Event, as_json: bool, sentence: str) -> None:
    found = {"id": event.id, "run": event.run, "candidate": event.candidate or None, "retry_of": event.retry_of or None}
    typer.echo(json.dumps(found) if as_json else sentence)
