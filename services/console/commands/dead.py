"""`asi-arch dead list|show|retry|drop`: messages that could not be handled, why, and what is done about them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypedDict, TypeVar

import typer

from services.chassis.bus import Bus
from services.chassis.bus.subjects import fact_of
from services.chassis.errors import NotFound, NotPossible
from services.chassis.events import Cause, dropped, retry_of
from services.console.archive import catch_up, open_archive
from services.console.log import SERVICE, open_log
from services.console.options import Json, Run, print_json
from services.console.rows import as_dict
from services.console.settings import ConsoleSettings, console_settings, running_system
from services.console.tables import ABSENT, pairs, paragraph, say, styled
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc, candidate_pb2, events_pb2

LetterState = Literal["open", "retried", "dropped"]


@dataclass(frozen=True)
class Letter:
    """One dead letter of the log. `number` is its sequence there, which names it on the command line."""

    number: int
    cause: Cause
    state: LetterState

    @property
    def event(self) -> events_pb2.Event:
        """The fact itself."""
        return self.cause.event


class LetterRow(TypedDict):
    """A dead letter as `dead list --json` prints it."""

    number: int
    time: str
    run: str
    candidate: str | None
    durable: str
    message: int
    deliveries: int
    reason: str
    state: LetterState


dead = typer.Typer(help="Messages that could not be handled: list, show, retry, drop.", no_args_is_help=False)

Which = Annotated[str, typer.Argument(metavar="LETTER", help="its number, or the candidate it is about")]
T = TypeVar("T")
Ask = Callable[[Bus, "archive_pb2_grpc.ArchiveAsyncStub", "list[Letter]"], Awaitable[T]]


@dead.callback(invoke_without_command=True)
def plain(context: typer.Context, run: Run = "", as_json: Json = False) -> None:
    """Messages that could not be handled; without a further word, their list."""
    if context.invoked_subcommand is None:
        _list(run, as_json)


@dead.command("list")
def list_letters(run: Run = "", as_json: Json = False) -> None:
    """All dead letters of a run, oldest first, and what was done about each."""
    _list(run, as_json)


@dead.command()
def show(letter: Which, run: Run = "", as_json: Json = False) -> None:
    """The message, the event in it, and the traceback."""

    async def ask(bus: Bus, _: object, letters: list[Letter]) -> tuple[Letter, events_pb2.Event]:
        one = letter_called(letters, letter)
        return one, events_pb2.Event.FromString(await bus.body_at(one.event.dead.sequence))

    one, work = asyncio.run(_asked(console_settings(), run, ask))
    if as_json:
        content = {"letter": rows([one])[0], "traceback": one.event.dead.traceback or None,
                   "event": as_dict(work)}  # fmt: skip
        print_json(content)
    else:
        _print_letter(one, work)


@dead.command()
def retry(letter: Which, run: Run = "", as_json: Json = False) -> None:
    """Publish a letter's work again: its rejected candidate goes on from there, as the same candidate.

    Nothing that it has been through is done again. With NATS credentials this takes the administrator's.
    """

    async def ask(bus: Bus, archive: archive_pb2_grpc.ArchiveAsyncStub, letters: list[Letter]) -> events_pb2.Event:
        return await retry_letter(bus, archive, letter_called(letters, letter))

    event = _done(run, ask)
    waits = "" if _alive(console_settings()) else "; it waits for services: `asi-arch run --resume`"
    _tell(event, as_json, f"{event.candidate} goes on from {event.id}{waits}")


@dead.command()
def drop(
    letter: Which,
    reason: Annotated[str, typer.Option(help="why nothing more is done about it")] = "",
    run: Run = "",
    as_json: Json = False,
) -> None:
    """Mark a letter as dealt with; its candidate stays as it ended."""

    async def ask(bus: Bus, _: object, letters: list[Letter]) -> events_pb2.Event:
        return await drop_letter(bus, letter_called(letters, letter), reason)

    event = _done(run, ask)
    _tell(event, as_json, f"{event.dead_dropped.dead} is dealt with")


def _list(run: str, as_json: bool) -> None:
    async def ask(_: Bus, __: object, letters: list[Letter]) -> list[Letter]:
        return letters

    found = rows(asyncio.run(_asked(console_settings(), run, ask)))
    if as_json:
        print_json(found)
    else:
        _print_rows(found)


async def _asked(settings: ConsoleSettings, run: str, ask: Ask[T]) -> T:
    async with open_archive(settings) as archive, open_log(settings) as bus:
        name = (await archive.GetRun(pb.RunRequest(run=run), timeout=30)).run
        return await ask(bus, archive, await dead_letters(bus, archive, name))


def _done(run: str, ask: Ask[events_pb2.Event]) -> events_pb2.Event:
    settings = console_settings()

    async def publish() -> events_pb2.Event:
        event = await _asked(settings, run, ask)
        await catch_up(settings)
        return event

    return asyncio.run(publish())


def _alive(settings: ConsoleSettings) -> bool:
    return settings.archive_is_elsewhere or running_system(settings) is not None


def _tell(event: events_pb2.Event, as_json: bool, sentence: str) -> None:
    found = {"id": event.id, "run": event.run, "candidate": event.candidate or None, "retry_of": event.retry_of or None}
    print_json(found) if as_json else say(sentence)


async def dead_letters(bus: Bus, archive: archive_pb2_grpc.ArchiveAsyncStub, run: str) -> list[Letter]:
    """All dead letters of a run, oldest first."""
    letters = [
        (logged.sequence, Cause.of(logged.body))
        for entity in ("candidate", "run")
        async for logged in bus.read_log(f"asi.v1.{run}.{entity}.dead")
    ]
    settled = [events_pb2.Event.FromString(one.body) async for one in bus.read_log(f"asi.v1.{run}.dead.dropped")]
    gone = {one.dead_dropped.dead for one in settled}
    again = await _retried(archive, run, {cause.event.candidate for _, cause in letters if cause.event.candidate})
    return [
        Letter(number, cause, _state_of(cause.event.id, gone, again)) for number, cause in sorted(letters, key=_first)
    ]


def letter_called(letters: Sequence[Letter], wanted: str) -> Letter:
    """By its number, or by the candidate if that has just one. Raises NotFound."""
    named = [letter for letter in letters if wanted in (str(letter.number), letter.event.candidate, letter.event.id)]
    if not named:
        known = ", ".join(f"{letter.number} ({letter.event.candidate or 'run'})" for letter in letters) or "none"
        raise NotFound(f"no dead letter is called {wanted!r}; there are: {known}")
    if len(named) > 1:
        numbers = ", ".join(str(one.number) for one in named)
        raise NotFound(f"{wanted} has several dead letters: say which of {numbers}")
    return named[0]


async def retry_letter(bus: Bus, archive: archive_pb2_grpc.ArchiveAsyncStub, letter: Letter) -> events_pb2.Event:
    """Publish the letter's work again; the event. Raises NotPossible with a sentence that says why not."""
    _require_open(letter)
    dead = letter.event
    if not dead.candidate:
        raise NotPossible(f"dead letter {letter.number} is about a run, which no service takes up again: drop it")
    request = pb.GetCandidateRequest(run=dead.run, candidate=dead.candidate)
    record = await archive.GetCandidate(request, timeout=30)
    if record.state != candidate_pb2.STATE_REJECTED or "dead_letter" not in record.rejection.evidence.fields:
        raise NotPossible(
            f"candidate {dead.candidate} has not ended because of a dead letter: nothing is left to retry; drop it"
        )
    links = (await archive.GetChain(request, timeout=30)).links
    head = [link for link in links if link.accepted and link.event.HasField("candidate_archived")][-1:]
    if not head:
        raise NotPossible(f"the end of candidate {dead.candidate} is not in the archive yet: try again in a moment")
    work = events_pb2.Event.FromString(await bus.body_at(dead.dead.sequence))
    try:
        event = retry_of(dead, work, Cause(head[0].event, bytes.fromhex(head[0].sha256)), SERVICE)
    except ValueError as error:
        raise NotPossible(f"{error}; drop it") from None
    await bus.publish(event)
    return event


async def drop_letter(bus: Bus, letter: Letter, reason: str) -> events_pb2.Event:
    """Say that nothing more is done about it; the event. Raises NotPossible when it was dealt with already."""
    _require_open(letter)
    event = dropped(letter.cause, SERVICE, reason)
    await bus.publish(event)
    return event


def rows(letters: Sequence[Letter]) -> list[LetterRow]:
    """As plain values."""
    return [
        LetterRow(
            number=letter.number,
            time=letter.event.time.ToDatetime().isoformat(timespec="seconds") + "Z",
            run=letter.event.run,
            candidate=letter.event.candidate or None,
            durable=letter.event.dead.consumer,
            message=letter.event.dead.sequence,
            deliveries=letter.event.dead.deliveries,
            reason=letter.event.dead.reason,
            state=letter.state,
        )
        for letter in letters
    ]


def _print_rows(letter_rows: Sequence[LetterRow]) -> None:
    """A line for each letter, and its reason below."""
    if not letter_rows:
        say("no dead letters")
    for row in letter_rows:
        number = styled(f"{row['number']:>5}", fg="red") if row["state"] == "open" else f"{row['number']:>5}"
        say(f"{number}  {row['candidate'] or 'run ' + row['run']}  {row['durable']}  {row['state']}  {row['time']}")
        say(paragraph(" ".join(row["reason"].split()), 7, " " * 7))


def _print_letter(letter: Letter, work: events_pb2.Event) -> None:
    """The message, what became of it, and the traceback."""
    dead = letter.event.dead
    say(pairs([
        ("dead letter", f"{letter.number}, {letter.state}"),
        ("durable", f"{dead.consumer}, after {dead.deliveries} deliveries"),
        ("message", f"{dead.sequence} on {dead.subject or 'an unknown subject'}"),
        ("event", f"{work.id} ({fact_of(work)}) by {work.service} at {work.time.ToJsonString()}"),
        ("candidate", f"{letter.event.candidate or ABSENT} {work.candidate_proposed.proposal.name}".strip()),
        ("run", letter.event.run),
        ("reason", dead.reason),
    ]))  # fmt: skip
    say(dead.traceback or "no traceback: the service died with the message each time; see its log")


def _require_open(letter: Letter) -> None:
    if letter.state != "open":
        raise NotPossible(f"dead letter {letter.number} was {letter.state} already")


def _first(pair: tuple[int, Cause]) -> int:
    return pair[0]


def _state_of(dead: str, gone: set[str], again: set[str]) -> LetterState:
    return "dropped" if dead in gone else "retried" if dead in again else "open"


async def _retried(archive: archive_pb2_grpc.ArchiveAsyncStub, run: str, candidates: set[str]) -> set[str]:
    """Ids of dead letters whose work was published again, by the chains of their candidates."""
    found: set[str] = set()
    for candidate in sorted(candidates):
        chain = await archive.GetChain(pb.GetCandidateRequest(run=run, candidate=candidate), timeout=30)
        found |= {link.event.retry_of for link in chain.links if link.accepted and link.event.retry_of}
    return found
