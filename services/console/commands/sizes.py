"""`asi-arch sizes`: a candidate and its controls at several sizes.

Each training is a line of `sizes.jsonl` in the run's folder, so the same command continues where it stopped. A size
multiplies width, heads, feed-forward width and tokens, and divides the learning rate.
"""

import asyncio
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from services.archive.scoring import program_of
from services.chassis.errors import NotFound, NotPossible, SettingsError
from services.console.options import Candidate, Json, Run, print_json
from services.console.tables import Column, paragraph, say, table
from services.contracts import archive_pb2, events_pb2
from services.contracts import candidate_pb2 as pb
from services.local.archive import run_and_candidates
from services.local.engineer_tools import scale_values, suited_precision, train_again
from services.local.settings import client_settings, did_you_mean, split_names, whole_numbers
from services.report.comparisons import SIZES_FILE, SizeGain, Trained, Trend, gains, read_sizes, sizes_text, trends
from services.report.rows import bounds, interval_text

CORPORA = ("python-source", "documentation")

OF_TRAININGS = ("against", "factors", "seeds", "corpus", "parallel")
"""Options that choose what is trained."""


def sizes(
    context: typer.Context,
    candidate: Candidate,
    against: Annotated[
        list[str] | None, typer.Option(help="a control, by id or name; repeatable; default: all baselines")
    ] = None,
    factors: Annotated[str, typer.Option(help="comma-separated multiples of the run's size")] = "1,2,4",
    seeds: Annotated[int, typer.Option(min=2, help="seeds per program and size")] = 3,
    corpus: Annotated[str, typer.Option(help=f"comma-separated texts: {', '.join(CORPORA)}")] = CORPORA[0],
    parallel: Annotated[int | None, typer.Option(min=1, help="trainings at once; default: one per core")] = None,
    only_show: Annotated[bool, typer.Option("--show", help="only show earlier trainings")] = False,
    run: Run = "",
    as_json: Json = False,
) -> None:
    """Train a candidate and its controls at several sizes, smallest first, and compare them.

    A repeated command continues, and repeats trainings that failed.
    """
    given = [name for name in OF_TRAININGS if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if only_show and given:
        raise typer.BadParameter(f"--show shows all earlier trainings: leave out --{given[0]}")
    settings = client_settings()
    status, records = asyncio.run(run_and_candidates(settings, run))
    own = record_named(records, candidate)
    controls = [record_named(records, name) for name in against or ()] or [
        record for record in records if record.kind == pb.KIND_BASELINE and record.HasField("training")
    ]
    texts = split_names(corpus)
    if bad := [text for text in texts if text not in CORPORA]:
        raise SettingsError(f"--corpus is {bad[0]!r}; choose from {', '.join(CORPORA)}.")
    path = settings.run_folder(status.run) / SIZES_FILE
    if not only_show:
        by_size = sorted(set(whole_numbers("--factors", factors)))
        plan = list(planned(status, [own, *controls], by_size, seeds, texts, read_sizes(path)))
        train_all(plan, path, parallel or os.cpu_count() or 1, quiet=as_json)
    trained = read_sizes(path)
    size_gains = gains(trained, own.id)
    if not size_gains:
        raise NotPossible(f"no size has a training of {own.proposal.name} and of a control with the same seed yet")
    drift = trends(trained, own.id)
    if as_json:
        print_json({"gains": [asdict(gain) for gain in size_gains], "trends": [asdict(trend) for trend in drift]})
    else:
        _print(size_gains, drift)


def record_named(records: Sequence[pb.Candidate], name: str) -> pb.Candidate:
    """By id, name or baseline. Raises NotFound for none, NotPossible for several and for one without a program."""
    matches = [record for record in records if name in (record.id, record.proposal.name, record.request.baseline)]
    if not matches:
        names = [text for record in records for text in (record.id, record.proposal.name) if text]
        raise NotFound(f"no candidate is called {name!r}{did_you_mean(name, names)}")
    if len(matches) > 1:
        raise NotPossible(f"{len(matches)} candidates are called {name}: give an id")
    if not program_of(matches[0]):
        raise NotPossible(f"{name} has no program")
    return matches[0]


@dataclass(frozen=True)
class Job:
    """One training that is still missing."""

    record: pb.Candidate
    factor: int
    corpus: str
    seed: int
    scale: str
    overrides: Mapping[str, str]


def planned(
    status: archive_pb2.RunStatus, records: Sequence[pb.Candidate], factors: Sequence[int], seeds: int,
    corpora: Sequence[str], trained: Sequence[Trained],
) -> Iterator[Job]:  # fmt: skip
    """Missing trainings by size and seed, so that results are comparable if it is stopped early."""
    settings = status.settings
    own = _overrides(settings, trained)
    base = scale_values("the run's scale", settings.scale, own)
    done = {training.key for training in trained if training.loss is not None}
    for factor, seed, corpus, record in product(factors, range(1, seeds + 1), corpora, records):
        if (record.id, factor, corpus, seed) not in done:
            overrides = {**own, **_scaled(base, factor), "corpus": corpus}
            yield Job(record, factor, corpus, seed, settings.scale, overrides)


def _overrides(settings: events_pb2.RunSettings, trained: Sequence[Trained]) -> dict[str, str]:
    """The run's, in the precision of earlier trainings, as others cannot be compared with them."""
    if earlier := next((training.precision for training in trained if training.precision), ""):
        return {**settings.scale_overrides, "precision": earlier}
    if trained:
        return dict(settings.scale_overrides)
    overrides, changed = suited_precision(settings.scale, settings.scale_overrides)
    if changed:
        typer.echo(changed, err=True)
    return overrides


def _scaled(base: Mapping[str, object], factor: int) -> dict[str, str]:
    """The overrides of a size; the time limit grows with the compute."""

    def times(name: str, by: float) -> str:
        value = base[name]
        assert isinstance(value, int | float)  # noqa: S101 - as the scale's own declaration says
        return f"{value * by:g}" if isinstance(value, float) or by < 1 else str(int(value * by))

    overrides = {name: times(name, factor) for name in ("width", "heads", "feed_forward", "tokens")}
    return overrides | {
        "learning_rate": times("learning_rate", 1 / factor),
        "wall_seconds": times("wall_seconds", 8 * factor**3),
    }


def train_all(plan: Sequence[Job], path: Path, parallel: int, quiet: bool) -> None:
    """Run the trainings of the plan in parallel, each written as soon as it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = threading.Lock()

    def train(job: Job) -> None:
        row = _trained(job)
        with writing, path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        if not quiet:
            result = row.failure or f"loss {row.loss:.4f}, {row.seconds or 0:.0f} s"
            say(f"{row.name} ×{row.factor}, {row.corpus}, seed {row.seed}: {result}")

    pool = ThreadPoolExecutor(parallel)
    try:
        list(pool.map(train, plan))
    finally:
        pool.shutdown(cancel_futures=True)


def _trained(job: Job) -> Trained:
    name = job.record.proposal.name or job.record.request.baseline
    label = f"{name} ×{job.factor}, {job.corpus}"
    result = train_again(label, program_of(job.record), job.scale, job.overrides, job.seed)
    loss, measured = result.get("loss"), result.get("measurements")
    measured = measured if isinstance(measured, dict) else {}
    failure = "" if isinstance(loss, float) else str(result.get("reason"))
    return Trained(
        job.record.id, name, job.factor, job.corpus, job.seed, loss if isinstance(loss, float) else None,
        measured.get("parameters"), measured.get("seconds"), failure, job.record.request.ablation_of,
        measured.get("precision") or "",
    )  # fmt: skip


def _print(size_gains: Sequence[SizeGain], drift: Sequence[Trend]) -> None:
    say(table([
        Column("text", [gain.corpus for gain in size_gains]),
        Column("size", [f"×{gain.factor}" for gain in size_gains], right=True),
        Column("loss", [f"{gain.loss:.4f}" for gain in size_gains], right=True),
        Column("strongest control", [gain.control for gain in size_gains]),
        Column("its loss", [f"{gain.control_loss:.4f}" for gain in size_gains], right=True),
        Column("gain", [f"{gain.gain:+.4f}" for gain in size_gains], right=True),
        Column("[95 %]", [interval_text(*bounds(gain.interval)) for gain in size_gains]),
        Column("seeds", [str(gain.seeds) for gain in size_gains], right=True),
    ]))  # fmt: skip
    if drift:
        say(paragraph(sizes_text([], drift)))
