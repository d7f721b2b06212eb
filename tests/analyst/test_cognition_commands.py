"""`python -m services.analyst.cognition` as the command line runs it."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.analyst.cognition.__main__ import run


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of this test's own, and no model."""
    for name in [name for name in os.environ if name.startswith(("ASI_", "OPENAI_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ASI_DATA_DIR", str(tmp_path))
    return tmp_path


def test_a_file_that_was_added_is_found_and_not_added_twice(
    data_dir: Path, paper_text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What users teach is searched with the rest."""
    (data_dir / "mine.toml").write_text(paper_text)

    assert run(["add", str(data_dir / "mine.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ["2402.00001#first-idea"]
    assert run(["search", "Loss on distant tokens is high, nearby ones predicted well", "--json"]) == 0
    assert "2402.00001#first-idea" in capsys.readouterr().out
    assert run(["add", str(data_dir / "mine.toml")]) == 2
    assert "exists twice" in capsys.readouterr().err


def test_a_search_without_a_result_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty answer would be taken for a failure; a count of zero is not the default."""
    assert run(["search", "zzz"]) == 1
    assert capsys.readouterr().out.endswith("no entry is similar enough to this description\n")
    assert run(["search", "--count", "0", "loss"]) == 2
    assert capsys.readouterr().err == "asi-arch: --count is 0; give a whole number from 1\n"


def test_statistics_come_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The console gives what the archive holds."""
    results = '[{"entries": ["a#x"], "gain": 0.25}, {"entries": ["a#x", "b#y"], "gain": null}]'
    monkeypatch.setattr(sys, "stdin", io.StringIO(results))
    status = run(["stats", "--json"])
    rows = json.loads(capsys.readouterr().out)

    assert status == 0
    assert [(row["entry"], row["uses"], row["improved"], row["mean_gain"]) for row in rows] == [
        ("a#x", 2, 1, 0.25),
        ("b#y", 1, 0, None),
    ]


@pytest.mark.parametrize("text", ["nonsense", '[{"entries": ["a#x"]}]', '[{"entries": 3, "gain": 1}]'])
def test_bad_input_gives_one_message(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what is wrong where, and is never a traceback."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    status, error = run(["stats"]), capsys.readouterr().err

    assert status == 2
    assert error.startswith("asi-arch: standard input")
    assert error.count("\n") == 1


def test_ingesting_without_a_model_names_the_missing_setting(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Extraction needs a model; there is no offline twin of reading a paper."""
    (data_dir / "paper.md").write_text("We propose a gate.")

    assert run(["ingest", str(data_dir / "paper.md")]) == 2
    assert "ASI_MODEL is not set" in capsys.readouterr().err


@pytest.mark.slow
def test_it_is_a_program_of_its_own(data_dir: Path) -> None:
    """The command line starts it as a process and passes its arguments on."""
    command = [sys.executable, "-m", "services.analyst.cognition", "add", str(data_dir / "none.toml")]
    done = subprocess.run(command, text=True, capture_output=True, check=False)

    assert done.returncode == 2
    assert done.stderr.startswith("asi-arch: none.toml: cannot be read")
