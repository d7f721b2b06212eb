"""`asi-arch dead`: what could not be handled, why, and what is done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from rich.console import Console
from rich.markup import escape

from services.chassis.bus import Bus
from services.chassis.bus.subjects import fact_of
from services.chassis.deadletters import dropped, retry_of
from services.chassis.errors import NotFound, NotPossible
from services.chassis.events import Cause
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc, candidate_pb2, events_pb2

SERVICE = "console"
Standing = Literal["open", "retried", "dropped"]


@dataclass(frozen=True)
class Letter:
    """One dead letter of the log. `number` is its sequence there, which names it on the command line."""

    number: int
    cause: Cause
    standing: Standing

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
    standing: Standing


async def letters(bus: Bus, archive: archive_pb2_grpc.ArchiveAsyncStub, run: str) -> list[Letter]:
    """All dead letters of a run, oldest first."""
    found = [
        (logged.sequence, Cause.of(logged.body))
        for entity in ("candidate", "run")
        async for logged in bus.read_log(f"asi.v1.{run}.{entity}.dead")
    ]
    settled = [events_pb2.Event.FromString(one.body) async for one in bus.read_log(f"asi.v1.{run}.dead.dropped")]
    gone = {one.dead_dropped.dead for one in settled}
    again = await _retried(archive, run, {cause.event.candidate for _, cause in found if cause.event.candidate})
    return [
        Letter(number, cause, _standing(cause.event.id, gone, again)) for number, cause in sorted(found, key=_first)
    ]


def the_letter(found: Sequence[Letter], wanted: str) -> Letter:
    """By its number, or by the candidate if that has just one. Raises NotFound."""
    named = [one for one in found if wanted in (str(one.number), one.event.candidate, one.event.id)]
    if not named:
        known = ", ".join(f"{one.number} ({one.event.candidate or 'run'})" for one in found) or "none"
        raise NotFound(f"no dead letter is called {wanted!r}; there are: {known}")
    if len(named) > 1:
        numbers = ", ".join(str(one.number) for one in named)
        raise NotFound(f"{wanted} has several dead letters: say which of {numbers}")
    return named[0]


async def retry(bus: Bus, archive: archive_pb2_grpc.ArchiveAsyncStub, letter: Letter) -> events_pb2.Event:
    """Publish the letter's work again; the event. Raises NotPossible with a sentence that says why not."""
    _must_be_open(letter)
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
    head = [one for one in links if one.accepted and one.event.HasField("candidate_archived")][-1:]
    if not head:
        raise NotPossible(f"the end of candidate {dead.candidate} is not in the archive yet: try again in a moment")
    work = events_pb2.Event.FromString(await bus.body_at(dead.dead.sequence))
    try:
        event = retry_of(dead, work, Cause(head[0].event, bytes.fromhex(head[0].sha256)), SERVICE)
    except ValueError as error:
        raise NotPossible(f"{error}; drop it") from None
    event.so_far.retries = record.retries + 1
    await bus.publish(event)
    return event


async def drop(bus: Bus, letter: Letter, reason: str) -> events_pb2.Event:
    """Say that nothing more is done about it; the event. Raises NotPossible when it was dealt with already."""
    _must_be_open(letter)
    event = dropped(letter.cause, SERVICE, reason)
    await bus.publish(event)
    return event


def rows(found: Sequence[Letter]) -> list[LetterRow]:
    """As plain values."""
    return [
        LetterRow(
            number=one.number,
            time=one.event.time.ToDatetime().isoformat(timespec="seconds") + "Z",
            run=one.event.run,
            candidate=one.event.candidate or None,
            durable=one.event.dead.consumer,
            message=one.event.dead.sequence,
            deliveries=one.event.dead.deliveries,
            reason=one.event.dead.reason,
            standing=one.standing,
        )
        for one in found
    ]


def print_rows(console: Console, found: Sequence[LetterRow]) -> None:
    """Two lines each."""
    if not found:
        console.print("no dead letters")
    for one in found:
        style = "red" if one["standing"] == "open" else "dim"
        about = one["candidate"] or f"run {one['run']}"
        console.print(
            f"[{style}]{one['number']:>5}[/{style}]  {about}  {one['durable']}  {one['standing']}  {one['time']}"
        )
        console.print(f"       {escape(' '.join(one['reason'].split()))}", soft_wrap=True)


def print_letter(console: Console, letter: Letter, work: events_pb2.Event) -> None:
    """The message, what became of it, and the traceback."""
    dead = letter.event.dead
    facts = (
        ("dead letter", f"{letter.number}, {letter.standing}"),
        ("durable", f"{dead.consumer}, after {dead.deliveries} deliveries"),
        ("message", f"{dead.sequence} on {dead.subject or 'an unknown subject'}"),
        ("event", f"{work.id} ({fact_of(work)}) by {work.service} at {work.time.ToJsonString()}"),
        ("candidate", f"{letter.event.candidate or '–'} {work.so_far.proposal.name}".strip()),
        ("run", letter.event.run),
        ("reason", dead.reason),
    )
    for title, text in facts:
        console.print(f"[dim]{title:<12}[/dim] {escape(text)}", soft_wrap=True)
    console.print(
        dead.traceback or "no traceback: the service died with the message each time; see its log",
        soft_wrap=True, markup=False,
    )  # fmt: skip


def _must_be_open(letter: Letter) -> None:
    if letter.standing != "open":
        raise NotPossible(f"dead letter {letter.number} was {letter.standing} already")


def _first(pair: tuple[int, Cause]) -> int:
    return pair[0]


def _standing(dead: str, gone: set[str], again: set[str]) -> Standing:
    return "dropped" if dead in gone else "retried" if dead in again else "open"


async def _retried(archive: archive_pb2_grpc.ArchiveAsyncStub, run: str, candidates: set[str]) -> set[str]:
    """Ids of dead letters whose work was published again, by the chains of their candidates."""
    found: set[str] = set()
    for candidate in sorted(candidates):
        chain = await archive.GetChain(pb.GetCandidateRequest(run=run, candidate=candidate), timeout=30)
        found |= {one.event.retry_of for one in chain.links if one.accepted and one.event.retry_of}
    return found
