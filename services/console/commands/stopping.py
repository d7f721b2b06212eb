"""`asi-arch stopping`: what stopping by curve extrapolation would have saved in a run, and what it would have lost."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from services.archive.curves import curves_of
from services.contracts import candidate_pb2 as pb
from services.domain.curves import MINIMUM_FINISHED, StoppingReplay, replay_stopping

FRACTIONS = (0.25, 0.4, 0.5, 0.6, 0.75)
SHARE_OF_FINALISTS = 4
MOST_FINALISTS = 10


@dataclass(frozen=True)
class Replayed:
    """One place at which runs could have been stopped, and what would have come of it."""

    fraction: float
    trainings: int
    replay: StoppingReplay


def replays(records: Sequence[pb.Candidate]) -> list[Replayed]:
    """The rule at several fractions, over the whole trainings of a run in their order; empty where they are too few."""
    ordered = sorted(records, key=lambda one: (one.request.number, one.id))
    whole = [curve for curve in curves_of(ordered) if curve.final is not None]
    if len(whole) <= MINIMUM_FINISHED:
        return []
    finalists = min(MOST_FINALISTS, max(1, len(whole) // SHARE_OF_FINALISTS))
    return [Replayed(one, len(whole), replay_stopping(whole, one, finalists)) for one in FRACTIONS]


def too_few(records: Sequence[pb.Candidate]) -> str:
    """Why there is no replay."""
    whole = sum(curve.final is not None for curve in curves_of(records))
    return f"{whole} whole trainings with a curve; a regression needs {MINIMUM_FINISHED} before it may stop the next"


def replay_row(one: Replayed) -> dict[str, object]:
    """A replay as JSON; `saved` is a share of all steps."""
    replay = one.replay
    return {
        "stopped_at": one.fraction, "trainings": one.trainings, "stopped": len(replay.stopped), "saved": replay.saved,
        "finalists": len(replay.finalists), "finalists_lost": len(replay.lost),
    }  # fmt: skip


def print_replays(console: Console, found: Sequence[Replayed]) -> None:
    """One line for each place."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("at", "trainings", "stopped", "compute saved", "finalists lost"):
        table.add_column(title, justify="right")
    for one in found:
        replay = one.replay
        lost = f"{len(replay.lost)} of {len(replay.finalists)}"
        table.add_row(f"{one.fraction:.0%}", str(one.trainings), str(len(replay.stopped)), f"{replay.saved:.0%}", lost)
    console.print(table)
    console.print(
        "each training is judged by the earlier ones alone; `--policy prune=on --policy prune_from=0.5` switches it on",
        style="dim",
    )
