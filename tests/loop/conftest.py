"""A whole system of real processes at a scale of seconds."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.console.conftest import bare_environment

# Real text and real training, as small as they get. Benchmarks, whose harness takes as long, where they are looked at.
MICRO = ("steps=6", "width=32", "heads=2", "feed_forward=64", "context=64", "heldout_blocks=16", "check_truncations=8",
         "evaluations=1", "tasks=")  # fmt: skip
BENCHMARKS = ("task_limit=16", "tasks=copying,brackets")
# A loss far below the baselines', as a few steps give by chance, leads to probes, but not to two more trainings.
UNREPEATED = ("--policy", "leakage=probe")
Command = Callable[..., subprocess.CompletedProcess[str]]


def micro_flags(*more: str) -> list[str]:
    """The flags of a run of seconds, with more settings."""
    return [part for setting in (*MICRO, *more) for part in ("--set", setting)]


def command_line(environment: dict[str, str]) -> Command:
    """Run the command line in this environment and wait for it."""

    def call(*arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "services.console", *arguments],
            env=environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert not ok or done.returncode == 0, done.stderr + done.stdout
        return done

    return call


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """This test's own data folder."""
    return bare_environment(tmp_path / "data", COLUMNS="120")


@pytest.fixture
def asi_arch(environment: dict[str, str]) -> Command:
    """The command line in this test's environment."""
    return command_line(environment)


@contextmanager
def running(flags: Sequence[str], environment: dict[str, str], quiet: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A command under way, which is killed where it outlives the context; its services end with it."""
    output = subprocess.DEVNULL if quiet else subprocess.PIPE
    command = [sys.executable, "-m", "services.console", *flags]
    process = subprocess.Popen(command, env=environment, stdout=output, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


def rows_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    """The JSON array that a command printed."""
    rows: list[dict[str, object]] = json.loads(done.stdout)
    return rows
