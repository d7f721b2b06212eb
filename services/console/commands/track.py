"""`asi-arch track`: write a run's candidates to an experiment tracker as they end, and report discoveries to a URL.

TensorBoard, MLflow and Weights & Biases are written to a folder, without a network; each is an extra, as in
`pip install asi-arch[tensorboard]`. A candidate is one run of the tracker.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Protocol
from urllib.parse import urlsplit

import typer

from services.archive.scoring import program_of
from services.chassis.errors import SettingsError
from services.console.commands.watch import updates
from services.console.options import Run
from services.console.tables import say
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc, candidate_pb2
from services.local.archive import open_archive
from services.local.settings import ClientSettings, client_settings, require_choice
from services.report.progress import EventRow
from services.report.rows import as_dict, row

ENDED = frozenset({"candidate.archived", "candidate.rejected", "candidate.verified"})
DISCOVERY = "discovery.confirmed"
TIMEOUT_SECONDS, TRIES = 10.0, 3


def track(
    to: Annotated[str, typer.Option(metavar="TRACKER", help=f"one of {', '.join(TRACKERS)}")] = "",
    out: Annotated[Path | None, typer.Option(help="folder; default: in the data folder")] = None,
    webhook: Annotated[
        str, typer.Option(metavar="URL", help="URL that receives a POST with JSON for each confirmed discovery")
    ] = "",
    run: Run = "",
    from_start: Annotated[bool, typer.Option("--from-start", help="begin with all earlier events")] = False,
) -> None:
    """Follow a run to its end: write each candidate to a tracker, and report discoveries to a URL."""
    if not to and not webhook:
        raise SettingsError("give --to TRACKER, --webhook URL, or both: there is nothing to do.")
    if out is not None and not to:
        raise SettingsError("--out is the folder of a tracker: give --to TRACKER too, or leave it out.")
    if webhook and urlsplit(webhook).scheme not in ("http", "https"):
        raise SettingsError(f"--webhook is {webhook!r}: give an address that begins with https:// or http://.")
    settings = client_settings()
    tracker = open_tracker(to, out or settings.data_dir / to) if to else None
    try:
        asyncio.run(_follow(settings, run, from_start, tracker, webhook))
    except KeyboardInterrupt:
        say("no longer followed; the run continues")
    finally:
        if tracker is not None:
            tracker.close()


async def _follow(settings: ClientSettings, run: str, from_start: bool, tracker: Tracker | None, webhook: str) -> None:
    async with open_archive(settings) as archive, aclosing(updates(settings, run, from_start)) as stream:
        async for _, event in stream:
            if event is None or event["candidate"] is None:
                continue
            if tracker is not None and event["fact"] in ENDED:
                record = await _record(archive, event)
                await asyncio.to_thread(tracker.write, record)
                say(f"{record.id} {record.proposal.name}: written")
            if webhook and event["fact"] == DISCOVERY:
                say(await asyncio.to_thread(post_message, webhook, discovery_message(await _record(archive, event))))


async def _record(archive: archive_pb2_grpc.ArchiveAsyncStub, event: EventRow) -> candidate_pb2.Candidate:
    """The candidate as of this event."""
    request = pb.GetCandidateRequest(run=event["run"], candidate=event["candidate"] or "", at_least=event["sequence"])
    return await archive.GetCandidate(request, timeout=30)


def discovery_message(record: candidate_pb2.Candidate) -> dict[str, object]:
    """The candidate, the claim's numbers, and a sentence in `text`, which chat services show."""
    discovery = record.discovery
    text = (
        f"asi-arch: discovery in run {record.run}: {record.proposal.name} ({record.id}) is better than its strongest "
        f"control by {discovery.effect:.4f} nats per token; adjusted p {discovery.adjusted_p_value:.2g} "
        f"for {discovery.tried} tried."
    )
    claim = as_dict(discovery)
    return {"text": text, "run": record.run, "candidate": record.id, "name": record.proposal.name, "discovery": claim}


def post_message(url: str, message: dict[str, object]) -> str:
    """POST the message as JSON, with retries; the result in a sentence."""
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


TRACKERS = ("wandb", "mlflow", "tensorboard")
_MEASURES = ("loss", "benchmark", "judge", "fitness", "parameters", "seconds")
Point = tuple[str, float, int]
"""A measure's name, its value and the step."""


class Tracker(Protocol):
    """An experiment tracker. A candidate that is written again becomes a second run."""

    def write(self, record: candidate_pb2.Candidate) -> None:
        """Write one whole candidate."""
        ...

    def close(self) -> None:
        """Finish what is still to be written; by default each candidate is complete."""


def open_tracker(name: str, out: Path) -> Tracker:
    """The tracker that writes below `out`. Raises SettingsError for one that is unknown or not installed."""
    require_choice("--to", name, TRACKERS)
    out.mkdir(parents=True, exist_ok=True)
    kinds: Mapping[str, Callable[[Path], Tracker]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _WandB}
    try:
        return kinds[name](out)
    except ImportError as error:
        raise SettingsError(f"--to {name} needs a package: pip install 'asi-arch[{name}]' ({error}).") from None


def points_of(record: candidate_pb2.Candidate) -> Iterator[Point]:
    """All measurements: the curve of each seed, then the scores at the last step."""
    last = 0
    for seed in record.training.seeds:
        for point in seed.curve:
            last = max(last, point.step)
            if point.HasField("train_loss"):
                yield f"train_loss/seed_{seed.seed}", point.train_loss, point.step
            if point.HasField("loss"):
                yield f"heldout_loss/seed_{seed.seed}", point.loss, point.step
        for score in seed.scores:
            task = re.sub(r"[^\w. :-]", "_", score.task, flags=re.ASCII)  # other names are refused by MLflow
            yield f"tasks/{task}/seed_{seed.seed}", score.value, last
    measures: Mapping[str, Any] = row(record)
    for name in _MEASURES:
        if measures[name] is not None:
            yield name, float(measures[name]), last


def settings_of(record: candidate_pb2.Candidate) -> dict[str, str | int]:
    """The candidate's parameters in a tracker."""
    return {
        "candidate": record.id, "name": record.proposal.name, "run": record.run, "parent": record.proposal.parent,
        "stage": record.stage, "state": row(record)["state"], "mind": record.proposal.mind,
        "components": ", ".join(record.proposal.components),
    }  # fmt: skip


class _TensorBoard(Tracker):
    def __init__(self, out: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer, self._out = SummaryWriter, out

    def write(self, record: candidate_pb2.Candidate) -> None:
        with self._writer(logdir=str(self._out / record.run / record.id)) as writer:
            for name, value, step in points_of(record):
                writer.add_scalar(name, value, step)
            for name, text in (("motivation", record.proposal.motivation), ("program", program_of(record))):
                writer.add_text(name, f"```\n{text}\n```" if name == "program" else text)


class _MLflow(Tracker):
    def __init__(self, out: Path) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        import mlflow

        self._mlflow = mlflow
        mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or out.absolute().as_uri())

    def write(self, record: candidate_pb2.Candidate) -> None:
        self._mlflow.set_experiment(record.run)
        with self._mlflow.start_run(run_name=f"{record.id} {record.proposal.name}"):
            self._mlflow.log_params({name: str(value)[:500] for name, value in settings_of(record).items()})
            for name, value, step in points_of(record):
                self._mlflow.log_metric(name, value, step=step)
            self._mlflow.log_text(program_of(record), "program.py")
            self._mlflow.log_text(record.proposal.motivation, "motivation.txt")


class _WandB(Tracker):
    def __init__(self, out: Path) -> None:
        import wandb

        self._wandb, self._out = wandb, out

    def write(self, record: candidate_pb2.Candidate) -> None:
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        run = self._wandb.init(
            project="asi-arch", group=record.run, name=f"{record.id} {record.proposal.name}", dir=str(self._out),
            config=settings_of(record), reinit="finish_previous",
            mode=mode, settings=self._wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        by_step: dict[int, dict[str, float]] = {}
        for name, value, step in points_of(record):
            by_step.setdefault(step, {})[name] = value
        for step in sorted(by_step):
            run.log(by_step[step], step=step)
        run.finish()

    def close(self) -> None:
        self._wandb.teardown()
