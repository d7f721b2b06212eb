"""Candidates in experiment trackers: TensorBoard, MLflow and Weights & Biases, written to a folder without a network.

One candidate is one run of the tracker: its curves by seed, its scores at the end, its motivation and program. Each
tracker is an extra of its own (`pip install asi-arch[tensorboard]`), imported when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from services.chassis.errors import SettingsError
from services.console.options import one_of
from services.console.rows import row
from services.contracts import candidate_pb2 as pb

TRACKERS = ("wandb", "mlflow", "tensorboard")
_MEASURES = ("loss", "benchmark", "judge", "fitness", "parameters", "seconds")
Point = tuple[str, float, int]
"""A measure's name, its value and the step."""


class Tracker(Protocol):
    """Where candidates are written to. A candidate that comes again replaces nothing: it is written once more."""

    def write(self, record: pb.Candidate) -> None:
        """Write one whole candidate."""
        ...

    def close(self) -> None:
        """Finish what is still to be written."""
        ...


def open_tracker(name: str, out: Path) -> Tracker:
    """The tracker that writes below `out`. Raises SettingsError for one that is unknown or not installed."""
    one_of("--to", name, TRACKERS)
    out.mkdir(parents=True, exist_ok=True)
    kinds: Mapping[str, Callable[[Path], Tracker]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _WandB}
    try:
        return kinds[name](out)
    except ImportError as error:
        raise SettingsError(f"--to {name} needs a package: pip install 'asi-arch[{name}]' ({error}).") from None


def points_of(record: pb.Candidate) -> Iterator[Point]:
    """Everything that was measured: the curve of each seed, then the scores, at the last step of the training."""
    last = 0
    for seed in record.training.seeds:
        for point in seed.curve:
            last = max(last, point.step)
            if point.HasField("train_loss"):
                yield f"train_loss/seed_{seed.seed}", point.train_loss, point.step
            if point.HasField("loss"):
                yield f"heldout_loss/seed_{seed.seed}", point.loss, point.step
        for score in seed.scores:
            yield f"tasks/{score.task}/seed_{seed.seed}", score.value, last
    measures: Mapping[str, Any] = row(record)
    for name in _MEASURES:
        if measures[name] is not None:
            yield name, float(measures[name]), last


def settings_of(record: pb.Candidate) -> dict[str, str | int]:
    """What the candidate is: for the table of a tracker."""
    return {
        "candidate": record.id, "name": record.proposal.name, "run": record.run, "parent": record.proposal.parent,
        "stage": record.stage, "state": row(record)["state"], "mind": record.proposal.mind,
        "components": ", ".join(record.proposal.components),
    }  # fmt: skip


class _TensorBoard:
    def __init__(self, out: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer, self._out = SummaryWriter, out

    def write(self, record: pb.Candidate) -> None:
        with self._writer(logdir=str(self._out / record.run / record.id)) as writer:
            for name, value, step in points_of(record):
                writer.add_scalar(name, value, step)
            for name, text in (("motivation", record.proposal.motivation), ("program", record.proposal.program)):
                writer.add_text(name, f"```\n{text}\n```" if name == "program" else text)

    def close(self) -> None:
        """Each candidate's file is closed with it."""


class _MLflow:
    def __init__(self, out: Path) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        import mlflow

        self._mlflow = mlflow
        mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or out.absolute().as_uri())

    def write(self, record: pb.Candidate) -> None:
        self._mlflow.set_experiment(record.run)
        with self._mlflow.start_run(run_name=f"{record.id} {record.proposal.name}"):
            self._mlflow.log_params({name: str(value)[:500] for name, value in settings_of(record).items()})
            for name, value, step in points_of(record):
                self._mlflow.log_metric(name, value, step=step)
            self._mlflow.log_text(record.proposal.program, "program.py")
            self._mlflow.log_text(record.proposal.motivation, "motivation.txt")

    def close(self) -> None:
        """Each candidate is a finished run of its own."""


class _WandB:
    def __init__(self, out: Path) -> None:
        import wandb

        self._wandb, self._out = wandb, out

    def write(self, record: pb.Candidate) -> None:
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
