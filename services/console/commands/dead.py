"""`asi-arch dead list|show|retry|drop`: messages that could not be handled: reasons, retries and dismissals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from services.chassis.bus import Bus
from services.chassis.bus.subjects import fact_of
from services.chassis.errors import NotFound, NotPossible
from services.chassis.events import Cause, follow
from services.console.options import Json, Run, print_json, run_async
from services.console.tables import pairs, paragraph, say, styled
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc, candidate_pb2, events_pb2
from services.local.archive import catch_up, open_archive
from services.local.log import SERVICE, open_log
from services.local.settings import client_settings, running_system
from services.report.rows import ABSENT, as_dict

LetterState = Literal["open", "retried", "dropped"]


@dataclass(frozen=True)
class Letter:
    """One dead letter of the log. `number` is its sequence there, which names it on the command line."""

    number: int
    cause: Cause
    state: LetterState

    @property
    def event(self) -> events_pb2.Event:
        return self.cause.event


dead = typer.Typer(
    help="Messages that could not be handled: list, show, retry, drop.", no_args_is_help=False, add_completion=False
)

Which = Annotated[str, typer.Argument(metavar="LETTER", help="its number, or the candidate it is about")]


@dead.callback(invoke_without_command=True)
def plain(context: typer.Context, run: Run = "", as_json: Json = False) -> None:
    """Messages that could not be handled; lists them by default."""
    if context.invoked_subcommand is None:
        list_letters(run, as_json)
    elif run or as_json:
        raise typer.BadParameter(f"give --run and --json after {context.invoked_subcommand}")


@dead.command("list")
@run_async
async def list_letters(run: Run = "", as_json: Json = False) -> None:
    """List all dead letters of a run, oldest first, with their states."""
    async with _letters(run) as (_, _, letters):
        rows = [letter_row(letter) for letter in letters]
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("no dead letters")
    for row in rows:
        number = styled(f"{row['number']:>5}", fg="red") if row["state"] == "open" else f"{row['number']:>5}"
        about = row["candidate"] or f"run {row['run']}"
        say(f"{number}  {about}  {row['durable']}  {row['state']}  {row['time']}")
        say(paragraph(" ".join(str(row["reason"]).split()), 7, " " * 7))


@dead.command()
@run_async
async def show(letter: Which, run: Run = "", as_json: Json = False) -> None:
    """Show the message, its event, and the traceback."""
    async with _letters(run) as (bus, _, letters):
        match = letter_named(letters, letter)
        work = events_pb2.Event.FromString((await bus.message_at(match.event.dead.sequence)).body)
    if as_json:
        traceback = match.event.dead.traceback or None
        print_json({"letter": letter_row(match), "traceback": traceback, "event": as_dict(work)})
    else:
        _print_letter(match, work)


@dead.command()
@run_async
async def retry(letter: Which, run: Run = "", as_json: Json = False) -> None:
    """Publish the work of a dead letter again: its rejected candidate continues from there.

    Completed steps are not repeated. Requires the administrator's NATS credentials, if credentials are used.
    """
    settings = client_settings()
    async with _letters(run) as (bus, archive, letters):
        event = await _retry_event(bus, archive, letter_named(letters, letter))
        await bus.publish(event)
    await catch_up(settings)
    alive = settings.archive_is_elsewhere or running_system(settings) is not None
    waits = "" if alive else "; it waits for services: `asi-arch run --resume`"
    _print_event(event, as_json, f"{event.candidate} continues from {event.id}{waits}")


@dead.command()
@run_async
async def drop(
    letter: Which,
    reason: Annotated[str, typer.Option(help="reason, which is recorded")] = "",
    run: Run = "",
    as_json: Json = False,
) -> None:
    """Mark a dead letter as closed; its candidate stays as it ended."""
    async with _letters(run) as (bus, _, letters):
        match = letter_named(letters, letter)
        _require_open(match)
        event = dropped(match.cause, reason)
        await bus.publish(event)
    await catch_up(client_settings())
    _print_event(event, as_json, f"{event.dead_dropped.dead} is closed")


def _print_event(event: events_pb2.Event, as_json: bool, sentence: str) -> None:
    ids = {"id": event.id, "run": event.run, "candidate": event.candidate or None, "retry_of": event.retry_of or None}
    print_json(ids) if as_json else say(sentence)


@asynccontextmanager
async def _letters(run: str) -> AsyncIterator[tuple[Bus, archive_pb2_grpc.ArchiveAsyncStub, list[Letter]]]:
    """Log, archive, and the dead letters of a run, oldest first."""
    settings = client_settings()
    async with open_archive(settings) as archive, open_log(settings) as bus:
        name = (await archive.GetRun(pb.RunRequest(run=run), timeout=30)).run
        causes = {
            logged.sequence: Cause.of(logged.body)
            for entity in ("candidate", "run")
            async for logged in bus.read_log(f"asi.v1.{name}.{entity}.dead")
        }
        drops = [
            events_pb2.Event.FromString(logged.body) async for logged in bus.read_log(f"asi.v1.{name}.dead.dropped")
        ]
        states: dict[str, LetterState] = {}
        for candidate in sorted({cause.event.candidate for cause in causes.values() if cause.event.candidate}):
            chain = await archive.GetChain(pb.GetCandidateRequest(run=name, candidate=candidate), timeout=30)
            accepted = (link.event for link in chain.links if link.accepted)
            states |= {event.retry_of: "retried" for event in accepted if event.retry_of}
        states |= {event.dead_dropped.dead: "dropped" for event in drops}
        letters = [Letter(at, cause, states.get(cause.event.id, "open")) for at, cause in sorted(causes.items())]
        yield bus, archive, letters


def letter_named(letters: Sequence[Letter], name: str) -> Letter:
    """By its number, or by the candidate if that has just one. Raises NotFound."""
    named = [letter for letter in letters if name in (str(letter.number), letter.event.candidate, letter.event.id)]
    if not named:
        choices = ", ".join(f"{letter.number} ({letter.event.candidate or 'run'})" for letter in letters) or "none"
        raise NotFound(f"no dead letter is called {name!r}; there are: {choices}")
    if len(named) > 1:
        numbers = ", ".join(str(letter.number) for letter in named)
        raise NotFound(f"{name} has several dead letters: say which of {numbers}")
    return named[0]


async def _retry_event(bus: Bus, archive: archive_pb2_grpc.ArchiveAsyncStub, letter: Letter) -> events_pb2.Event:
    """The event that publishes the letter's work again. Raises NotPossible."""
    _require_open(letter)
    dead = letter.event
    if not dead.candidate:
        raise NotPossible(f"dead letter {letter.number} is about a run, which no service can retry: drop it")
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
    work = events_pb2.Event.FromString((await bus.message_at(dead.dead.sequence)).body)
    return retry_of(dead, work, Cause(head[0].event, bytes.fromhex(head[0].sha256)))


UNFINISHED = frozenset(f"candidate_{fact}" for fact in ("requested", "proposed", "trained", "judged", "analysed"))
"""Facts after which a candidate needs further work."""


def retry_of(dead: events_pb2.Event, work: events_pb2.Event, head: Cause) -> events_pb2.Event:
    """A copy of the event `work`, which could not be handled, so that its handler runs again.

    It is appended to the candidate's chain, whose last event is `head`. Raises NotPossible if `work` is not a fact that
    causes further work.
    """
    fact = work.WhichOneof("fact") or ""
    if fact not in UNFINISHED:
        raise NotPossible(f"{work.id} is not a fact that causes further work; drop it")
    retries = head.event.retries + 1
    again = follow(head, fact.removeprefix("candidate_"), SERVICE, 1, work.candidate, retries=retries)
    getattr(again, fact).CopyFrom(getattr(work, fact))
    again.retry_of = dead.id
    return again


def dropped(dead: Cause, reason: str) -> events_pb2.Event:
    """The fact that a dead letter was dropped. Idempotent: its id depends on the dead letter only."""
    suffix = f"{dead.event.dead.consumer}-{dead.event.dead.sequence}"
    event = follow(dead, "dropped", SERVICE, 1, dead.event.candidate, suffix=suffix)
    event.dead_dropped.CopyFrom(events_pb2.DeadDropped(dead=dead.event.id, reason=reason))
    return event


def letter_row(letter: Letter) -> dict[str, object]:
    """A letter as `dead list --json` prints it."""
    event, dead = letter.event, letter.event.dead
    return {
        "number": letter.number, "time": event.time.ToDatetime().isoformat(timespec="seconds") + "Z", "run": event.run,
        "candidate": event.candidate or None, "durable": dead.consumer, "message": dead.sequence,
        "deliveries": dead.deliveries, "reason": dead.reason, "state": letter.state,
    }  # fmt: skip


def _print_letter(letter: Letter, work: events_pb2.Event) -> None:
    """The message, its state, and the traceback."""
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
