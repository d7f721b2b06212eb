"""Two processes train what one process trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engineer.training import programs

OVERRIDES = {**programs.SMALL, "precision": "fp32", "steps": "3", "log_every": "1"}


def started(processes: int, folder: Path) -> "subprocess.Popen[str]":
    """A training of three steps on `processes` processes."""
    folder.mkdir()
    (folder / "program.py").write_text(programs.CONVOLUTION)
    settings = [part for field, value in OVERRIDES.items() for part in ("--set", f"{field}={value}")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command += ["services.engineer.training.distributed", "--scale", "tiny", "--program", str(folder / "program.py")]
    return subprocess.Popen(
        [*command, "--out", str(folder), *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def losses(training: "subprocess.Popen[str]", folder: Path) -> list[float]:
    """Its training losses, once it has ended."""
    out, error = training.communicate(timeout=240)
    assert training.returncode == 0, error[-2000:]
    assert (folder / "weights.safetensors").is_file()
    return [json.loads(line)["train_loss"] for line in out.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(tmp_path: Path) -> None:
    """Gradients are averaged over the whole batch, so the number of processes must not change the result."""
    trainings = [(started(processes, folder := tmp_path / str(processes)), folder) for processes in (1, 2)]
    try:
        single, double = (losses(training, folder) for training, folder in trainings)
    finally:
        for training, _ in trainings:
            training.kill()

    assert len(single) == 3
    assert double == pytest.approx(single, abs=1e-4)
