"""The text that `asi-arch train` prints."""

import subprocess
import sys
from pathlib import Path

import pytest

from services.engineer.tools import _failure_text, _log_of_program
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
                pass
        return self.projection(hidden_states)
"""


@pytest.mark.slow
def test_a_training_that_hangs_says_what_it_waits_for(tmp_path: Path) -> None:
    """Long before the limit ends it."""
    (tmp_path / "hangs.py").write_text(HANGS)
    command = [sys.executable, "-m", "services.engineer.tools", "train", str(tmp_path / "hangs.py"), *micro_flags()]
    done = subprocess.run(
        [*command, "--set", "wall_seconds=30"],
        env=bare_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "the training failed: " in done.stdout
    assert "waiting for step 1 (the limit is 30 s) for 15 s\n" in done.stderr
