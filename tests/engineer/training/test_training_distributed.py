"""Two processes train what one process trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engineer.training import programs

OVERRIDES = {**programs.SMALL, "precision": "fp32", "steps": "3", "log_every": "1"}


def losses(processes: int, folder: Path) -> list[float]:
    """Training losses of three steps on `processes` processes."""
    (folder / "program.py").write_text(programs.CONVOLUTION)
    settings = [part for field, value in OVERRIDES.items() for part in ("--set", f"{field}={value}")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command += ["services.engineer.training.distributed", "--scale", "tiny", "--program", str(folder / "program.py")]
    finished = subprocess.run(
        [*command, "--out", str(folder), *settings],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert (folder / "weights.safetensors").is_file()
    return [json.loads(line)["train_loss"] for line in finished.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(tmp_path: Path) -> None:
    """Gradients are averaged over the whole batch, so the number of processes must not change the result."""
    single, double = losses(1, tmp_path), losses(2, tmp_path)

    assert len(single) == 3
    assert double == pytest.approx(single, abs=1e-4)
