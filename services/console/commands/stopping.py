"""`asi-arch stopping`: what each rule of early stopping would have saved in a run, and what it would have lost."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import typer

from services.archive.scoring import curves_of
from services.console.archive import run_and_candidates
from services.console.options import Json, Run, RunArgument, chosen_run, print_json
from services.console.settings import console_settings
from services.console.tables import Column, paragraph, say, styled, table
from services.contracts import candidate_pb2 as pb
from services.domain.curves import (
    LEAST_COMPARED,
    MINIMUM_FINISHED,
    QUANTILES,
    StoppingReplay,
    replay_quantiles,
    replay_stopping,
)

FRACTIONS = (0.25, 0.4, 0.5, 0.6, 0.75)
SHARE_OF_FINALISTS = 4
MOST_FINALISTS = 10


@dataclass(frozen=True)
class Replayed:
    """One rule by which trainings could have been stopped, and what would have come of it.

    ``fraction`` is where extrapolation judges; None for the quantiles, which judge at several places.
    """

    fraction: float | None
    trainings: int
    replay: StoppingReplay


def stopping(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """What each rule of early stopping would have saved in a run, and which finalists it would have lost."""
    _, records = asyncio.run(run_and_candidates(console_settings(), chosen_run(argument, run)))
    found = replays(records)
    if as_json:
        print_json([replay_row(replayed) for replayed in found])
    elif found:
        _print(found)
        if text := stopped_in_the_run(records):
            say(paragraph(text))
    if not found:
        typer.echo(f"nothing can be said: {too_few(records)}", err=True)
        raise typer.Exit(1)


def replays(records: Sequence[pb.Candidate]) -> list[Replayed]:
    """The rules over the whole trainings of a run in their order, extrapolation at several fractions; empty where too
    few are known."""
    ordered = sorted(records, key=lambda record: (record.request.number, record.id))
    whole = [curve for curve in curves_of(ordered) if curve.final is not None]
    if len(whole) <= MINIMUM_FINISHED:
        return []
    finalists = min(MOST_FINALISTS, max(1, len(whole) // SHARE_OF_FINALISTS))
    quantiles = [Replayed(None, len(whole), replay_quantiles(whole, finalists))]
    extrapolation = [Replayed(at, len(whole), replay_stopping(whole, at, finalists)) for at in FRACTIONS]
    return (quantiles if len(whole) > LEAST_COMPARED else []) + extrapolation


def stopped_in_the_run(records: Sequence[pb.Candidate]) -> str:
    """What the run's own rule has stopped, in a sentence; empty where it stopped nothing."""
    curves = curves_of(records)
    stopped = [curve for curve in curves if curve.final is None]
    if not stopped:
        return ""
    saved = sum(1 - curve.progress for curve in stopped) / len(curves)
    return f"The run itself stopped {len(stopped)} of {len(curves)} trainings, which saved {saved:.1%} of the steps."


def too_few(records: Sequence[pb.Candidate]) -> str:
    """Why there is no replay."""
    whole = sum(curve.final is not None for curve in curves_of(records))
    return f"{whole} whole trainings with a curve; a regression needs {MINIMUM_FINISHED} before it may stop the next"


def replay_row(replayed: Replayed) -> dict[str, object]:
    """A replay as JSON; `saved` is a share of all steps."""
    replay = replayed.replay
    return {
        "rule": "quantiles" if replayed.fraction is None else "extrapolation",
        "stopped_at": replayed.fraction, "trainings": replayed.trainings, "stopped": len(replay.stopped),
        "saved": replay.saved, "finalists": len(replay.finalists), "finalists_lost": len(replay.lost),
    }  # fmt: skip


def _places(fraction: float | None) -> str:
    return ", ".join(f"{at:.0%}" for at in ([at for at, _ in QUANTILES] if fraction is None else [fraction]))


def _print(found: Sequence[Replayed]) -> None:
    lost = [f"{len(one.replay.lost)} of {len(one.replay.finalists)}" for one in found]
    say(table([
        Column("rule", [str(replay_row(one)["rule"]) for one in found]),
        Column("at", [_places(one.fraction) for one in found], right=True),
        Column("trainings", [str(one.trainings) for one in found], right=True),
        Column("stopped", [str(len(one.replay.stopped)) for one in found], right=True),
        Column("compute saved", [f"{one.replay.saved:.0%}" for one in found], right=True),
        Column("finalists lost", lost, right=True),
    ]))  # fmt: skip
    note = (
        "Each training is judged by the earlier ones alone. New runs stop by quantiles; --policy stopping=none trains "
        "everything to its end, --policy stopping=extrapolation --policy prune_from=0.5 predicts."
    )
    say(styled(paragraph(note), dim=True))
