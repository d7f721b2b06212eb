"""Building the table: the order of work, and that a killed build goes on where it was."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.engineer.scales import ScaleError
from services.engineer.table import RELIABILITY_CELLS, _parser, is_complete, order
from services.engineer.table import build as build_table
from services.table.lattice import cells
from services.table.records import Record, read_all

SHORT = ("--set", "tokens=1024", "--set", "heldout_blocks=8", "--set", "check_truncations=2", "--set", "evaluations=1")


def test_the_order_has_every_training_once_and_every_seed_of_a_few_cells_first() -> None:
    jobs = order((1, 2, 3))

    assert len(jobs) == len({(cell.name, seed) for cell, seed in jobs}) == 3 * len(cells())
    assert [seed for _, seed in jobs[:6]] == [1, 2, 3, 1, 2, 3]
    assert {seed for _, seed in jobs[3 * RELIABILITY_CELLS : len(cells())]} == {1}


def test_a_record_is_complete_with_all_tasks_or_with_a_failure() -> None:
    """A later build with `--tasks` adds the scores that earlier records lack; a failed training has none."""
    trained = Record("cell", "mini-half", 1, loss=2.0, scores={"copying": 0.5})

    assert not is_complete(None, ())
    assert is_complete(trained, ())
    assert is_complete(trained, ("copying",))
    assert not is_complete(trained, ("copying", "arithmetic"))
    assert is_complete(Record("cell", "mini-half", 1, failure="diverged: NaN"), ("copying",))


def build(folder: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "services.engineer.table", "--folder", str(folder), *SHORT, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--folder", "/proc/table"], "--folder /proc/table cannot be created: No such file or directory."),
        (["--set", "tokens"], "--set is 'tokens'; write it as NAME=VALUE."),
        (["--seeds", "1", "-1"], "--seeds is -1; give whole numbers from 0."),
        (["--workers", "0"], "--workers is 0; give whole numbers from 1."),
    ],
)
async def test_flags_that_cannot_be_used_are_refused_by_name(flags: list[str], reason: str, tmp_path: Path) -> None:
    """Not by a traceback, and not by doing nothing."""
    with pytest.raises(ScaleError) as refused:
        await build_table(_parser().parse_args(["--folder", str(tmp_path / "table"), *flags]))

    assert str(refused.value) == reason


def recorded(folder: Path, minimum: int) -> list[Record]:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if len(records := read_all(folder)) >= minimum:
            return records
        time.sleep(0.1)
    raise AssertionError(f"fewer than {minimum} trainings were recorded")


@pytest.mark.slow
def test_a_killed_build_goes_on_where_it_was_beside_another_process(tmp_path: Path) -> None:
    first = build(tmp_path)
    try:
        recorded(tmp_path, 2)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.communicate(timeout=60)
    before = read_all(tmp_path)

    both = [build(tmp_path, "--limit", "2"), build(tmp_path, "--limit", "2")]
    try:
        for process in both:
            process.communicate(timeout=300)
    finally:
        for process in both:
            process.kill()
    after = read_all(tmp_path)
    lines = [line for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]

    assert [process.returncode for process in both] == [0, 0]
    assert len(after) == len(before) + 4 == len(lines)
    assert all(record in after for record in before)
    assert {record.conditions for record in after} == {before[0].conditions}
    assert all(record.loss is not None and record.parameters and record.cpu_seconds for record in after)
