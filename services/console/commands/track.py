"""`asi-arch track`: a run's candidates in an experiment tracker as they end, and discoveries reported to a URL."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from contextlib import aclosing
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from services.chassis.errors import SettingsError
from services.console.archive import open_archive
from services.console.commands.watch import moments
from services.console.events import EventRow
from services.console.options import Run
from services.console.rows import as_dict
from services.console.settings import ConsoleSettings, console_settings
from services.console.tables import say
from services.console.trackers import TRACKERS, Tracker, open_tracker
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2

ENDED = frozenset({"candidate.archived", "candidate.rejected", "candidate.verified"})
DISCOVERY = "discovery.confirmed"
TIMEOUT_SECONDS, TRIES = 10.0, 3


def track(
    to: Annotated[str, typer.Option(metavar="TRACKER", help=f"one of {', '.join(TRACKERS)}")] = "",
    out: Annotated[Path | None, typer.Option(help="folder; default: in the data folder")] = None,
    webhook: Annotated[
        str, typer.Option(metavar="URL", help="gets a POST with JSON for each confirmed discovery")
    ] = "",
    run: Run = "",
    from_start: Annotated[bool, typer.Option("--from-start", help="first all that has happened already")] = False,
) -> None:
    """Follow a run to its end: write each candidate to a tracker, and report discoveries to a URL."""
    if not to and not webhook:
        raise SettingsError("give --to TRACKER, --webhook URL, or both: there is nothing to do.")
    if webhook and urlsplit(webhook).scheme not in ("http", "https"):
        raise SettingsError(f"--webhook is {webhook!r}: give an address that begins with https:// or http://.")
    settings = console_settings()
    tracker = open_tracker(to, out or settings.data_dir / to) if to else None
    try:
        asyncio.run(_follow(settings, run, from_start, tracker, webhook))
    except KeyboardInterrupt:
        say("no longer followed; the run goes on")
    finally:
        if tracker is not None:
            tracker.close()


async def _follow(settings: ConsoleSettings, run: str, from_start: bool, tracker: Tracker | None, webhook: str) -> None:
    async with aclosing(moments(settings, run, from_start)) as seen:
        async for moment in seen:
            event = moment.event
            if event is None or event["candidate"] is None:
                continue
            if tracker is not None and event["fact"] in ENDED:
                record = await _record(settings, event)
                await asyncio.to_thread(tracker.write, record)
                say(f"{record.id} {record.proposal.name}: written")
            if webhook and event["fact"] == DISCOVERY:
                say(await asyncio.to_thread(report, webhook, discovery_message(await _record(settings, event))))


async def _record(settings: ConsoleSettings, event: EventRow) -> candidate_pb2.Candidate:
    """The candidate as of this event."""
    async with open_archive(settings) as archive:
        request = pb.GetCandidateRequest(
            run=event["run"], candidate=event["candidate"] or "", at_least=event["sequence"]
        )
        return await archive.GetCandidate(request, timeout=30)


def discovery_message(record: candidate_pb2.Candidate) -> dict[str, object]:
    """What is sent: the candidate, the claim's numbers, and a sentence in `text`, which chat services show."""
    found = record.discovery
    text = (
        f"asi-arch: discovery in run {record.run}: {record.proposal.name} ({record.id}) is better than its strongest "
        f"control by {found.effect:.4f} nats per token; adjusted p {found.adjusted_p_value:.2g} "
        f"for {found.tried} tried."
    )
    claim = as_dict(found)
    return {"text": text, "run": record.run, "candidate": record.id, "name": record.proposal.name, "discovery": claim}


def report(url: str, message: dict[str, object]) -> str:
    """POST the message as JSON, a few times if need be; what came of it, in a sentence."""
    body = json.dumps(message).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - the caller looked
    problem = ""
    for _ in range(TRIES):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
                return f"discovery {message['candidate']} reported: status {answer.status}"
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            problem = str(error)
    return f"discovery {message['candidate']} could not be reported to {urlsplit(url).hostname}: {problem}"
