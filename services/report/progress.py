"""Live progress of a run: trainings, waiting services, the best candidate, the time left."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypedDict

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.chassis.bus.subjects import fact_of
from services.contracts import archive_pb2 as pb
from services.contracts import events_pb2
from services.contracts.progress_pb2 import Progress as Announced
from services.contracts.progress_pb2 import TrainingProgress
from services.report.rows import ABSENT, Row, clock, number

STATES = ("requested", "proposed", "training", "trained", "judged", "analysed", "archived", "rejected")
OVER = frozenset({"finished", "stopped"})
LINE_SECONDS = 15.0
SILENT_SECONDS = 12.0  # four missed announcements
MAX_SHOWN = 8
EVENTS_SHOWN = 6
MIN_DONE = 1.0  # candidates before an estimate
TRAINING_PART = 0.5  # of a candidate's time


class View:
    """The progress of a run as a block or a line. Remaining times never increase."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._status: pb.RunStatus | None = None
        self._rows: list[Row] = []
        self._begun, self._spent_at_start, self._done_at_start = now(), 0.0, 0.0  # of the first update
        self._left: float | None = None
        self._announcements: dict[str, tuple[float, Announced]] = {}  # by candidate, with the time of arrival
        self._left_of: dict[tuple[str, int], TrainingProgress] = {}
        self._trained_at: dict[str, float] = {}  # when all trainings of a candidate had ended
        self.latest: deque[EventRow] = deque(maxlen=EVENTS_SHOWN)
        self.last_events: dict[str, EventRow] = {}

    def update(self, status: pb.RunStatus, rows: Sequence[Row]) -> None:
        """Apply the archive's state: the run, and at least its candidates in flight."""
        is_first, self._status = self._status is None, status
        self._rows = [row for row in rows if row["state"] not in ("archived", "rejected")]
        ids = {row["id"] for row in self._rows}
        self._announcements = {name: latest for name, latest in self._announcements.items() if name in ids}
        if is_first:
            self._begun, self._spent_at_start = self._now(), status.spent.seconds
            self._done_at_start = self._done(status)

    def record(self, announced: Announced) -> None:
        for training in announced.trainings:
            before = self._left_of.get((announced.candidate, training.seed))
            if before is not None and before.step <= training.step and before.steps == training.steps:
                training.seconds_left = min(training.seconds_left, before.seconds_left)
            self._left_of[announced.candidate, training.seed] = training
        self._announcements[announced.candidate] = (self._now(), announced)
        if announced.trainings and all(training.step >= training.steps for training in announced.trainings):
            self._trained_at.setdefault(announced.candidate, self._now())
        else:
            self._trained_at.pop(announced.candidate, None)

    def event(self, row: EventRow) -> None:
        self.latest.append(row)
        if row["candidate"]:
            self.last_events[row["candidate"]] = row

    def record_all(self, queue: asyncio.Queue[Announced]) -> None:
        while not queue.empty():
            self.record(queue.get_nowait())

    def block(self) -> RenderableType:
        """For a terminal: bars for the run and its trainings."""
        status = self._status
        if status is None:
            return Text("asking the archive …", style="dim")
        ended, expected = ended_and_expected(status)
        head = f"run {status.run} · {status.phase} · {clock(self._spent(status))}{self._time_left(status)}"
        parts: list[RenderableType] = [Text(head, style="bold")]
        if expected:
            total = Table.grid(padding=(0, 2))
            bar = ProgressBar(total=expected, completed=min(ended, expected), width=40)
            total.add_row(bar, f"{ended} of {expected}")
            parts.append(total)
        parts += [Text(self._counts(status)), self._in_flight(), Text(best_line(status), style="green")]
        parts += [Text(line(row), style="dim", no_wrap=True, overflow="ellipsis") for row in self.latest]
        return Group(*parts)

    def line(self) -> str:
        """The same in one line."""
        status = self._status
        if status is None:
            return "asking the archive"
        activities = [self._activity(row, row["id"]) for row in self._rows]
        head = f"{clock(self._spent(status))} {status.phase}: {self._counts(status)}{self._time_left(status, ', ')}"
        return "; ".join([head, *filter(None, activities), best_line(status)])

    def _counts(self, status: pb.RunStatus) -> str:
        again = f", {status.climbing} being trained again" if status.climbing else ""
        counts = (f"{status.states[name]} {name}" for name in STATES if status.states.get(name, 0))
        return (", ".join(counts) or "starting") + again

    def _spent(self, status: pb.RunStatus) -> float:
        """Wall time of the run, continued since this command began unless the run has ended."""
        if status.phase in (*OVER, "paused") and not status.in_flight:
            return status.spent.seconds
        return max(status.spent.seconds, self._spent_at_start + self._now() - self._begun)

    def _done(self, status: pb.RunStatus) -> float:
        """Candidates that ended, and the trained part of those in flight."""
        done = float(ended_and_expected(status)[0])
        for _, announced in self._announcements.values():
            if steps := sum(training.steps for training in announced.trainings):
                done += TRAINING_PART * sum(training.step for training in announced.trainings) / steps
        return done

    def _time_left(self, status: pb.RunStatus, before: str = " · ") -> str:
        """Estimated from the rate since this command began; empty before, and for runs with a promotion."""
        _, expected = ended_and_expected(status)
        if expected is None or status.settings.promotion not in ("", "none") or status.phase in OVER:
            return ""
        done = self._done(status)
        gained = done - self._done_at_start
        if gained >= MIN_DONE:
            left = max(0.0, expected - done) * (self._now() - self._begun) / gained
            self._left = left if self._left is None else min(self._left, left)
        return "" if self._left is None else f"{before}about {clock(self._left)} left"

    def _in_flight(self) -> RenderableType:
        if not self._rows:
            return Text("nothing is in flight", style="dim")
        table = Table.grid(padding=(0, 2, 0, 0), expand=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=24)
        table.add_column(overflow="ellipsis", no_wrap=True)
        for row in self._rows[:MAX_SHOWN]:
            for activity in self._activities(row):
                table.add_row(row["id"], row["name"] or "…", activity)
        if len(self._rows) > MAX_SHOWN:
            table.add_row("", f"and {len(self._rows) - MAX_SHOWN} more", "")
        return table

    def _activities(self, row: Row) -> list[RenderableType]:
        """A bar with numbers for each training in progress, else the candidate's state and its duration."""
        announced = self._announced(row)
        running = [training for training in announced.trainings if training.step < training.steps] if announced else []
        if announced is None or not running or announced.waits_for:
            last = self.last_events.get(row["id"])
            past = datetime.now(UTC) - datetime.fromisoformat(last["time"]) if last else None
            since = ABSENT if past is None else clock(max(0.0, past.total_seconds()))
            return [Text(self._activity(row) or f"{row['state']}, {since}")]
        bars: list[RenderableType] = []
        for training in running:
            grid = Table.grid(padding=(0, 2, 0, 0))
            grid.add_row(
                ProgressBar(total=training.steps, completed=training.step, width=8),
                f"{training.step}/{training.steps}", f"{training.loss:.3f}",
                f"{training.tokens_per_second:,.0f}/s", clock(training.seconds_left),
            )  # fmt: skip
            bars.append(grid)
        return bars

    def _announced(self, row: Row) -> Announced | None:
        at, announced = self._announcements.get(row["id"], (0.0, None))
        return announced if announced is not None and self._now() - at < SILENT_SECONDS else None

    def _activity(self, row: Row, name: str = "") -> str:
        """As in "judge waits for the model, 0:45, attempt 2"; empty if unknown."""
        announced = self._announced(row)
        if announced is None:
            return ""
        head = f"{name} " if name else ""
        attempt = f", attempt {announced.attempt}" if announced.attempt > 1 else ""
        since = clock(max(0.0, time.time() - announced.since.ToNanoseconds() / 1e9))
        if announced.waits_for:
            return f"{head}{announced.service} waits for {announced.waits_for}, {since}{attempt}"
        trainings = [
            f"step {training.step}/{training.steps}, loss {training.loss:.3f}, "
            f"{training.tokens_per_second:,.0f} tokens/s, {clock(training.seconds_left)} left"
            for training in announced.trainings
            if training.step < training.steps
        ]
        verb = "works"
        if announced.trainings:
            verb, since = "evaluates", clock(self._now() - self._trained_at.get(row["id"], self._now()))
        return f"{head}{' and '.join(trainings) or f'{announced.service} {verb}, {since}{attempt}'}"


@contextlib.contextmanager
def _unless_lost() -> Iterator[None]:
    """Print nothing on a terminal that is lost. The signal that tells so comes later, and the run is to be paused."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


class Progress:
    """Shows a run: a live block on a terminal, a line every 15 seconds elsewhere, nothing if `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False)
        self.view = View()
        self.quiet = quiet
        self._live: Live | None = None
        if self._console.is_terminal and not quiet:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True,
                              get_renderable=self.view.block)  # fmt: skip
        self._shown_at = -LINE_SECONDS

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            with _unless_lost():
                self._live.stop()

    def note(self, text: str) -> None:
        """Print a sentence permanently."""
        if not self.quiet:
            with _unless_lost():
                self._console.print(text, soft_wrap=True)

    def show(self) -> None:
        """Print the view's line if it is due; a terminal is updated by itself."""
        if not self.quiet and self._live is None and time.monotonic() - self._shown_at >= LINE_SECONDS:
            self._shown_at = time.monotonic()
            self._console.print(self.view.line(), soft_wrap=True)


def ended_and_expected(status: pb.RunStatus) -> tuple[int, int | None]:
    """The number of ended candidates and, if the budget counts candidates, their final number."""
    ended = status.states.get("archived", 0) + status.states.get("rejected", 0)
    budget = status.settings.budget
    expected = len(status.settings.baselines) + budget.candidates if budget.HasField("candidates") else None
    return ended, expected


def best_line(status: pb.RunStatus) -> str:
    if not status.HasField("best"):
        return "no candidate is scored yet"
    loss = number(status.best.loss if status.best.HasField("loss") else None)
    return f"best {status.best.name} ({status.best.id}): loss {loss}, fitness {number(status.best.fitness, '.3f')}"


class EventRow(TypedDict):
    """One event, as `asi-arch watch --json` prints it. Time is UTC; loss in nats per token, judge 1–10."""

    sequence: int
    time: str
    id: str
    run: str
    fact: str
    candidate: str | None
    name: str | None
    stage: str | None
    service: str
    attempt: int
    loss: float | None
    benchmark: float | None
    judge: float | None
    fitness: float | None
    reason: str | None


def event_row(event: events_pb2.Event, sequence: int, earlier: Mapping[str, EventRow]) -> EventRow:
    """An event as a row, the rest from the candidate's row in `earlier`. Raises ValueError for an unknown fact."""
    requested, proposal = event.candidate_requested, event.candidate_proposed.proposal
    training, verdict = event.candidate_trained.training, event.candidate_judged.verdict
    fitness = event.candidate_rescored.fitness if event.HasField("candidate_rescored") else verdict.fitness
    scored = event.HasField("candidate_rescored") or verdict.HasField("fitness")
    previous: EventRow | dict[str, None] = earlier.get(event.candidate) or {}
    stage = requested.stage or event.candidate_promoted.stage or event.candidate_verified.stage
    return EventRow(
        sequence=sequence,
        time=event.time.ToDatetime().isoformat(timespec="milliseconds") + "Z",
        id=event.id,
        run=event.run,
        fact=fact_of(event),
        candidate=event.candidate or None,
        name=proposal.name or requested.request.baseline or previous.get("name"),
        stage=stage or event.candidate_proposed.stage or event.candidate_trained.stage or previous.get("stage"),
        service=event.service,
        attempt=event.attempt,
        loss=training.loss if training.HasField("loss") else previous.get("loss"),
        benchmark=training.benchmark if training.HasField("benchmark") else previous.get("benchmark"),
        judge=verdict.raw if verdict.HasField("raw") else previous.get("judge"),
        fitness=fitness.value if scored else previous.get("fitness"),
        reason=_reason(event),
    )


def line(row: EventRow) -> str:
    """As a line, such as "07:31:02 c000003 trained DeltaNet: loss 1.3798"."""
    fact = row["fact"].removeprefix("candidate.")
    who = " ".join(part for part in (row["candidate"], fact, row["name"]) if part)
    numbers = _numbers(row)
    return f"{row['time'][11:19]} {who}" + (f": {numbers}" if numbers else "")


def _numbers(row: EventRow) -> str:
    """The numbers that this fact adds."""
    fact = row["fact"]
    if fact in ("candidate.rejected", "run.stopped") or row["reason"]:
        return row["reason"] or ""
    if fact == "candidate.trained":
        return f"loss {number(row['loss'])}, benchmark {number(row['benchmark'], '.3f')}"
    if fact in ("candidate.judged", "candidate.rescored"):
        return f"judge {number(row['judge'], '.1f')}, fitness {number(row['fitness'], '.3f')}"
    if fact == "candidate.archived" and row["fitness"] is not None:
        return f"fitness {number(row['fitness'], '.3f')}"
    return ""


def _reason(event: events_pb2.Event) -> str | None:
    fact = event.WhichOneof("fact")
    match fact:
        case "candidate_rejected":
            rejection = event.candidate_rejected.rejection
            return f"{rejection.stage}: {rejection.reason}"
        case "candidate_claimed":
            return f"by {event.candidate_claimed.worker}" + (", resumed" if event.candidate_claimed.resumed else "")
        case ("candidate_promoted" | "candidate_verified" | "candidate_rescored" | "run_paused" | "run_resumed"
              | "run_stopped"):  # fmt: skip
            return getattr(event, fact).reason or None
        case "mind_answered":
            call = event.mind_answered.call
            return call.error or f"{call.role} by {call.model}, {call.prompt_tokens + call.completion_tokens} tokens"
        case "dead":
            return f"{event.dead.consumer}: {event.dead.reason}"
        case _:
            return None
