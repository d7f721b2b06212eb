"""The text that `asi-arch train` prints."""

import subprocess
import sys
from pathlib import Path

import pytest

from services.engineer.checks.report import CheckSettings
from services.engineer.tools import _failure_text, _log_of_program, _result_text
from services.engineer.training.result import Measurements, TrainingResult
from tests.console.conftest import bare_environment
from tests.loop.conftest import micro_flags


def test_of_a_traceback_only_the_frames_of_the_program_are_shown() -> None:
    """The others are the engineer's own; what the program printed before is kept."""
    own = '  File "<candidate_1f>", line 8, in forward\n    x / 0\nZeroDivisionError: division by zero\n'
    outer = 'Traceback (most recent call last):\n  File "/srv/services/engineer/training/child.py", line 147, in run\n'

    assert _log_of_program(f"hello\n{outer}{own}") == f"hello\n{own}"
    assert _log_of_program(f"hello\n{outer}MemoryError\n") == "hello\nMemoryError\n"
    assert _log_of_program("hello\n") == "hello\n"
    assert _log_of_program("y" * 10_000) == "y" * 300 + "\n"


def test_a_program_that_fails_in_training_is_referred_to_the_check() -> None:
    """Only the check explains common errors and tries the other precision."""
    assert "--scale mini tells what to change" in _failure_text("error", "KeyError: 'x'", "", "mini")
    assert "check" not in _failure_text("timeout", "No answer within 300 s.", "", "mini")


def test_more_parameters_than_a_run_allows_are_pointed_out() -> None:
    """The program was trained and scored; in a run it would be rejected."""
    measured = Measurements(2501, None, None, None, None, 9.0, "cpu", "x", {}, "", "", "fp32", "", 9, False, None)
    result = TrainingResult(
        loss=2.0, loss_stderr=0.1, bits_per_byte=2.9, block_losses=(), part_losses=(), scores=(), benchmark=None,
        seed=1, scale="tiny", curve=(), measurements=measured, stopped=None, other_text=None, other_text_loss=None,
    )  # fmt: skip

    assert "2,501: a run allows at most 2,500\n" in _result_text(result, CheckSettings(baseline_parameters=1000))
    assert "2,501\n" in _result_text(result, CheckSettings(baseline_parameters=1001))


HANGS = """
import time
from torch import nn

class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **kwargs):
        super().__init__()
        self.projection = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, **kwargs):
        if self.training:
            while True:
                time.sleep(1)
        return self.projection(hidden_states)
"""


@pytest.mark.slow
def test_a_training_that_hangs_says_what_it_waits_for(tmp_path: Path) -> None:
    """Long before the limit ends it."""
    (tmp_path / "hangs.py").write_text(HANGS)
    command = [sys.executable, "-m", "services.engineer.tools", "train", str(tmp_path / "hangs.py"), *micro_flags()]
    done = subprocess.run(
        [*command, "--set", "wall_seconds=5"],
        env=bare_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "the training failed: " in done.stdout
    assert "waiting for step 1 (the limit is 20 s) for 15 s\n" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "-3"], "--steps is -3; give a whole number from 1 to 4294967295."),
        (["--steps", "9" * 30], f"--steps is {'9' * 30}; "),
        (["--seed", "-1"], "--seed is -1; give a whole number from 0 to 4294967295."),
        (
            ["--set", f"tokens={'9' * 30}"],
            "--scale tiny with --set: The scale's tokens must be more than zero and at most 9007199254740992",
        ),
        (["--scale", "empty.toml"], "--scale empty.toml is empty: give a file that holds a scale as TOML.\n"),
        (["--scale", "own.toml"], "--scale own.toml: The scale has no field 'tokenz' (did you mean tokens"),
    ],
)
def test_a_number_or_scale_that_no_training_takes_is_refused_with_its_flag(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    """At once, by the name that the user wrote, and not by a traceback of the training."""
    for name, text in (("program.py", "x = 1\n"), ("empty.toml", ""), ("own.toml", 'base = "mini"\ntokenz = 5\n')):
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "services.engineer.tools", "train", "program.py", *flags]
    environment = {**bare_environment(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}

    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"asi-arch: {message}")
