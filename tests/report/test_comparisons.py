"""Trainings at several sizes: their comparison, and the repetition of truncated ones."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest

from services.domain.zoo import baseline
from services.report.comparisons import Trained, gains, read_sizes, sizes_text, trends, variants_of
from services.report.page import write_report
from tests.report.example_run import finished_run, status


def trained(gain: dict[int, float], corpus: str = "python-source") -> list[Trained]:
    """c000004 against two controls with three seeds at each size; the second control is the stronger one."""
    rows = []
    for factor, lead in gain.items():
        for seed in (1, 2, 3):
            control = 2.0 / factor + 0.01 * seed
            rows += [
                Trained("c000001", "Net1", factor, corpus, seed, control + 0.2),
                Trained("c000002", "Net2", factor, corpus, seed, control),
                Trained("c000004", "Net4", factor, corpus, seed, control - lead - 0.001 * seed),
            ]
    return rows


def test_a_gain_is_taken_over_the_control_that_is_strongest_at_that_size() -> None:
    """Paired by seed, with an interval over the seeds."""
    first, second = gains(trained({1: 0.1, 2: 0.05}), "c000004")

    assert (first.factor, first.control, first.seeds) == (1, "Net2", 3)
    assert first.gain == pytest.approx(0.102)
    assert first.interval is not None
    assert first.interval.low < 0.102 < first.interval.high
    assert second.gain == pytest.approx(0.052)


def test_a_gain_that_halves_with_each_doubling_shrinks() -> None:
    """The slope's interval tells growth from nothing."""
    (shrinks,) = trends(trained({1: 0.1, 2: 0.05, 4: 0.025}), "c000004")
    (holds,) = trends(trained({1: 0.1, 2: 0.1, 4: 0.1}), "c000004")

    assert shrinks.conclusion == "the gain shrinks with size"
    assert holds.conclusion == "neither growth nor shrinkage is shown"
    assert trends(trained({1: 0.1}), "c000004") == []


def test_texts_are_kept_apart() -> None:
    """Structure that helps on code need not help on prose."""
    rows = [*trained({1: 0.1}), *trained({1: -0.1}, "documentation")]

    assert [(gain.corpus, gain.gain > 0) for gain in gains(rows, "c000004")] == [
        ("documentation", False), ("python-source", True),
    ]  # fmt: skip


def test_a_control_with_fewer_seeds_is_not_compared(tmp_path: Path) -> None:
    """Otherwise the strongest control would be a matter of who was trained; a line cut off is as if it were not."""
    rows = trained({1: 0.1})
    path = tmp_path / "sizes.jsonl"
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows)[:-150], encoding="utf-8")
    read = read_sizes(path)

    assert len(read) == len(rows) - 1
    assert read_sizes(tmp_path / "none") == []
    assert gains(rows[:4], "c000004")[0].control == "Net2"
    assert [gain.seeds for gain in gains([*rows[:5], rows[5]], "c000004")] == [2]


def test_programs_without_a_part_are_compared_by_seed() -> None:
    """The largest rise first; p is corrected for all of them, and a program with one seed is left out."""
    rows = [Trained("c000004", "Net4", 1, "python-source", seed, 2.0 + 0.1 * seed) for seed in (1, 2, 3)]
    for seed in (1, 2, 3):
        rows.append(Trained("without_gate", "without_gate", 1, "python-source", seed, 2.1 + 0.101 * seed, 90))
        rows.append(Trained("without_norm", "without_norm", 1, "python-source", seed, 2.01 + 0.099 * seed, 95))
    rows.append(Trained("without_key", "without_key", 1, "python-source", 1, 9.0))
    names = ("without_key", "without_norm", "without_gate")

    gate, norm = variants_of(rows, "c000004", {name: f"It is {name}." for name in names})

    assert (gate.name, gate.description, gate.parameters, gate.seeds) == ("without_gate", "It is without_gate.", 90, 3)
    assert gate.rise == pytest.approx(0.102)
    assert gate.interval.low < 0.102 < gate.interval.high
    assert gate.p < norm.p < 0.05


@pytest.mark.slow
def test_the_report_draws_the_sizes(tmp_path: Path) -> None:
    """With the sentence that says what it means, and the CSV."""
    rows = trained({1: 0.1, 2: 0.05, 4: 0.025})
    page = write_report(status(), finished_run(), tmp_path, rows).read_text(encoding="utf-8")

    assert "The gain of Net4 at several sizes" in page
    assert "the gain shrinks with size" in page
    assert (tmp_path / "sizes-c000004.csv").read_text(encoding="utf-8").count("\n") == 4
    assert "against Net2 (3 seeds)" in sizes_text(gains(rows, "c000004"), [])


TRAIN = """
import sys
from services.local.engineer_tools import engineer_tool
engineer_tool("train", sys.argv[1], "tiny", {})
"""


def test_a_training_does_not_outlive_the_command_that_asked_for_it(tmp_path: Path) -> None:
    """Not even where that is killed: `asi-arch sizes` trains for hours, and nobody would know of what it left."""
    command = subprocess.Popen(
        [sys.executable, "-c", TRAIN, baseline("delta_net").program],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    try:
        _until(lambda: len(_trainings(tmp_path)) > 0)
    finally:
        command.kill()
        command.wait(10)

    _until(lambda: _trainings(tmp_path) == [])


def _trainings(folder: Path) -> list[str]:
    """The processes that train a program in this folder."""
    processes = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"services.engineer.tools" in words[:3] and any(str(folder).encode() in word for word in words):
                processes.append(process.name)
    return processes


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "not within a minute"
        time.sleep(0.02)
