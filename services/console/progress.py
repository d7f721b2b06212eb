"""Live progress of a run: candidates by state, trainings under way, the best so far, the time left."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.console.events import EventRow, line
from services.console.rows import Row
from services.console.tables import ABSENT, clock, number
from services.contracts import archive_pb2 as pb

if TYPE_CHECKING:
    from services.console.commands.watch import Scene

STATES = ("requested", "proposed", "training", "trained", "judged", "analysed", "archived", "rejected")
REST_SECONDS = 15.0


class Progress:
    """Shows where a run stands: a live block on a terminal, a line now and then in a file."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = console = Console(highlight=False)
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._quiet = quiet
        self._begun = time.monotonic()
        self._told = -REST_SECONDS
        self._ended_at_start: int | None = None
        self._spent_at_start: float | None = None

    def __enter__(self) -> Progress:
        if self._live and not self._quiet:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and self._live.is_started:
            self._live.stop()

    def note(self, text: str) -> None:
        """A sentence that stays."""
        if not self._quiet:
            self._console.print(text)

    def show(self, status: pb.RunStatus, rows: Sequence[Row]) -> None:
        """Where the run stands now."""
        if self._quiet:
            return
        left, spent = self._seconds_left(status), self._seconds(status)
        if self._live:
            self._live.update(_block(status, rows, spent, left))
        elif time.monotonic() - self._told >= REST_SECONDS:
            self._told = time.monotonic()
            self._console.print(_line(status, spent, left), soft_wrap=True)

    def _seconds(self, status: pb.RunStatus) -> float:
        """Wall time of the run: what the archive knew when this command began, and what has passed since."""
        if self._spent_at_start is None:
            self._spent_at_start = status.spent.seconds
        return self._spent_at_start + time.monotonic() - self._begun

    def _seconds_left(self, status: pb.RunStatus) -> float | None:
        """From the pace since this command began; None before anything has ended, or where more comes after it."""
        ended, wanted = ended_and_wanted(status)
        if self._ended_at_start is None:
            self._ended_at_start = ended
        done = ended - self._ended_at_start
        if wanted is None or done < 1 or status.settings.promotion not in ("", "none"):
            return None
        return (wanted - ended) * (time.monotonic() - self._begun) / done


def ended_and_wanted(status: pb.RunStatus) -> tuple[int, int | None]:
    """Candidates that ended and, where the budget counts candidates, how many there will be."""
    ended = status.states.get("archived", 0) + status.states.get("rejected", 0)
    budget = status.settings.budget
    wanted = len(status.settings.baselines) + budget.candidates if budget.HasField("candidates") else None
    return ended, wanted


def _block(status: pb.RunStatus, rows: Sequence[Row], spent: float, left: float | None) -> RenderableType:
    ended, wanted = ended_and_wanted(status)
    counts = Table.grid(padding=(0, 2))
    counts.add_row(*(Text(f"{name} {status.states.get(name, 0)}", style=_style(status, name)) for name in STATES))
    lines: list[RenderableType] = [
        Text(f"run {status.run} · {status.phase} · {clock(spent)}{_again(status)}{_left(left)}", style="bold")
    ]
    if wanted:
        lines.append(Padding(ProgressBar(total=wanted, completed=ended, width=60), 0))  # a line of its own
    lines += [counts, *_in_hand(rows), Text(best_line(status))]
    return Group(*lines)


def _style(status: pb.RunStatus, name: str) -> str:
    if not status.states.get(name, 0):
        return "dim"
    return {"archived": "green", "rejected": "red"}.get(name, "yellow")


def _in_hand(rows: Sequence[Row]) -> list[Text]:
    moving = [one for one in rows if one["state"] not in ("archived", "rejected")]
    return [Text(f"  {one['id']} {one['name'] or '…'}: {one['state']}", style="dim") for one in moving[:6]]


def _line(status: pb.RunStatus, spent: float, left: float | None) -> str:
    states = ", ".join(f"{status.states[name]} {name}" for name in STATES if status.states.get(name, 0))
    return f"{clock(spent)} {status.phase}: {states or 'starting'}{_again(status)}; {best_line(status)}{_left(left)}"


def _again(status: pb.RunStatus) -> str:
    """Finalists and controls on their way to a verdict."""
    return f", {status.climbing} being trained again" if status.climbing else ""


def best_line(status: pb.RunStatus) -> str:
    """The best candidate so far, in words."""
    if not status.HasField("best"):
        return "no candidate is scored yet"
    loss = number(status.best.loss if status.best.HasField("loss") else None)
    return f"best {status.best.name} ({status.best.id}): fitness {status.best.fitness:.3f}, loss {loss}"


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f" · about {clock(seconds)} left"


COLUMNS = (("id", 7), ("name", 0), ("state", 8), ("since", 5), ("training", 25))
"""Of what is in flight, with their least widths; the name gives way."""


def scene_block(scene: Scene, data_dir: Path, now: datetime | None = None) -> RenderableType:
    """The whole scene. Steps of a training are read from the data folder, where an engineer of this machine tells."""
    status = scene.status
    ended, wanted = ended_and_wanted(status)
    counts = ", ".join(f"{status.states[name]} {name}" for name in STATES if status.states.get(name, 0))
    parts: list[RenderableType] = [
        Text(
            f"run {status.run} · {status.phase} · {clock(status.spent.seconds)} · {counts or 'starting'}", style="bold"
        )
    ]
    if wanted:
        parts.append(Padding(ProgressBar(total=wanted, completed=min(ended, wanted), width=40), 0))  # a line of its own
    parts.append(in_flight(scene.moving, scene.last, data_dir, now or datetime.now(UTC)))
    parts.append(Text(best_line(status), style="green"))
    parts += [Text(line(row), style="dim", no_wrap=True, overflow="ellipsis") for row in scene.latest]
    return Group(*parts)


def in_flight(rows: Sequence[Row], last: dict[str, EventRow], data_dir: Path, now: datetime) -> RenderableType:
    """A line for each candidate under way."""
    if not rows:
        return Text("nothing is in flight", style="dim")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title, width in COLUMNS:
        room = Console().width - sum(width + 2 for _, width in COLUMNS)
        table.add_column(
            title, no_wrap=True, overflow="ellipsis", header_style="dim",
            min_width=width or 24, max_width=None if width else max(24, room),
        )  # fmt: skip
    for one in rows:
        table.add_row(one["id"], one["name"] or "…", one["state"], _since(last.get(one["id"]), now),
                      _training_of(data_dir, one))  # fmt: skip
    return table


def _since(last: EventRow | None, now: datetime) -> str:
    if last is None:
        return ABSENT
    return clock(max(0.0, (now - datetime.fromisoformat(last["time"])).total_seconds()))


def _training_of(data_dir: Path, one: Row) -> str:
    """Where the engineer says it is, as in "step 40/586, loss 2.31"; empty when it says nothing here."""
    try:
        told = json.loads((data_dir / "progress" / one["run"] / f"{one['id']}.json").read_text())
        return f"step {told['step']}/{told['steps']}, loss {told['train_loss']:.2f}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
