"""A run as a block of text for a terminal of any width: what is in flight, the best so far, the latest events."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.console.commands.watch import Scene
from services.console.happenings import Happening, line
from services.console.progress import STATES, best_line, clock, ended_and_wanted
from services.console.rows import Row
from services.console.tables import ABSENT, LEAST_NAME, terminal

COLUMNS = (("id", 7), ("name", 0), ("state", 8), ("since", 5), ("training", 25))
"""Of what is in flight, with their least widths; the name gives way."""


def block(scene: Scene, data_dir: Path, now: datetime | None = None) -> RenderableType:
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
    parts.append(in_flight(scene.moving, scene.begun, data_dir, now or datetime.now(UTC)))
    parts.append(Text(best_line(status), style="green"))
    parts += [Text(line(one), style="dim", no_wrap=True, overflow="ellipsis") for one in scene.latest]
    return Group(*parts)


def in_flight(rows: Sequence[Row], last: dict[str, Happening], data_dir: Path, now: datetime) -> RenderableType:
    """A line for each candidate under way."""
    if not rows:
        return Text("nothing is in flight", style="dim")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title, width in COLUMNS:
        room = terminal().width - sum(width + 2 for _, width in COLUMNS)
        table.add_column(
            title, no_wrap=True, overflow="ellipsis", header_style="dim",
            min_width=width or LEAST_NAME, max_width=None if width else max(LEAST_NAME, room),
        )  # fmt: skip
    for one in rows:
        table.add_row(one["id"], one["name"] or "…", one["state"], _since(last.get(one["id"]), now),
                      _training(data_dir, one))  # fmt: skip
    return table


def _since(last: Happening | None, now: datetime) -> str:
    if last is None:
        return ABSENT
    return clock(max(0.0, (now - datetime.fromisoformat(last["time"])).total_seconds()))


def _training(data_dir: Path, one: Row) -> str:
    """Where the engineer says it is, as in "step 40/586, loss 2.31"; empty when it says nothing here."""
    try:
        told = json.loads((data_dir / "progress" / one["run"] / f"{one['id']}.json").read_text())
        return f"step {told['step']}/{told['steps']}, loss {told['train_loss']:.2f}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
