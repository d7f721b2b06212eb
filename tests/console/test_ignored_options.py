"""Options that a command would ignore are refused."""

import pytest
from typer.testing import CliRunner

from services.console.cli import app


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["scaling", "--budget", "50"], "--policy, --budget and --runs need --table"),
        (["scaling", "r1", "--table"], "it takes no RUN"),
        (["show", "c000001", "--exchanges", "x.jsonl"], "--exchanges needs --lessons"),
        (["show", "c000001", "--lessons", "--program"], "give one"),
        (["show", "c000001", "--json", "--program"], "give one"),
        (["run", "--join", "--resume"], "--join starts a run"),
        (["dead", "--run", "r1", "drop", "c000001"], "give --run and --json after drop"),
        (["audit", "c000001", "--seeds", "3"], "--seeds needs an exported log"),
        (["audit", "r1.jsonl", "--run", "r1"], "leave out --run"),
        (["ablate", "c000001", "--seeds", "4"], "--seeds needs --programs"),
        (["ablate", "c000001", "--programs", ".", "--component", "gate"], "give one"),
        (["sizes", "c000001", "--show", "--factors", "1,2"], "leave out --factors"),
    ],
)
def test_options_without_effect_are_refused(command: list[str], reason: str) -> None:
    """Who gives one expects something of it."""
    result = CliRunner().invoke(app, command)

    assert (result.exit_code, result.stdout) == (2, "")
    assert reason in result.stderr


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["track", "--webhook", "https://example.org", "--out", "x"], "give --to TRACKER too"),
        (["autoscale", "--min", "3", "--max", "2"], "--min is 3, but at most 2 engineers run"),
    ],
)
def test_settings_without_effect_are_refused(command: list[str], reason: str) -> None:
    """As above, by an error that the entry point prints."""
    assert reason in str(CliRunner().invoke(app, command).exception)
