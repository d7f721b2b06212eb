"""The help texts of the commands, in wide and narrow terminals."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from services.console.cli import COMMANDS, Commands, app

TOOLS = ("check", "train", "setup", "import", "restore", "replay", "backup", "recover", "cognition", "export")
"""Commands whose help is their tool's."""


@pytest.mark.parametrize("columns", [80, 50])
@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in TOOLS])
def test_help_fits_and_cuts_nothing(command: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of a flag that is cut cannot be typed, and a flag takes no value."""
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = CliRunner().invoke(app, [command, "--help"], terminal_width=columns).output
    lines = shown.splitlines()

    assert lines
    assert all(len(line) <= columns for line in lines)
    assert "<bool>" not in shown
    assert "install-completion" not in shown
    assert not any(
        word.endswith(("…", "...")) and word.startswith(("-", "--")) for line in lines for word in line.split()
    )
    assert "..." not in shown.replace("[ARGS]...", "")


@pytest.mark.parametrize("columns", [80, 50])
def test_help_shows_values_and_arguments_as_they_are_typed(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brackets in a help text are markup in a wide terminal, where they vanished; arguments are in capitals."""
    monkeypatch.setenv("COLUMNS", str(columns))
    run, compare = (CliRunner().invoke(app, [name, "--help"]).output for name in ("run", "compare"))

    assert "RUN@SEQUENCE" in run
    assert "{FIRST} {SECOND}" in compare


@pytest.mark.parametrize("command", ["backup", "setup", "train"])
def test_help_of_a_tool_says_what_the_command_does(command: str) -> None:
    """argparse shows these texts in its list of commands only, which nobody sees."""
    shown = subprocess.run(
        [sys.executable, "-m", "services.console", command, "--help"], capture_output=True, text=True, check=True
    ).stdout
    paragraphs = shown.split("\n\n")

    assert paragraphs[0].startswith(f"usage: asi-arch {command}")
    assert paragraphs[1][0].isupper()
    assert paragraphs[1].endswith(".")


def test_every_command_can_be_loaded() -> None:
    """The overview names modules that exist."""
    group = Commands(name="asi-arch")
    context = group.make_context("asi-arch", ["status"])

    assert [group.get_command(context, name).name for name in COMMANDS] == list(COMMANDS)
