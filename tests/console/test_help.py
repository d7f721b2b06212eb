"""The help texts of the commands, in wide and narrow terminals."""

import pytest
from typer.testing import CliRunner

from services.console.cli import COMMANDS, app

TOOLS = ("check", "train", "setup", "import", "restore", "replay", "backup", "recover", "cognition", "export")
"""Commands whose help is their tool's."""


@pytest.mark.parametrize("columns", [80, 50])
@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in TOOLS])
def test_help_fits_and_cuts_nothing(command: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of a flag that is cut cannot be typed, and a flag takes no value."""
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = CliRunner().invoke(app, [command, "--help"], terminal_width=columns).output
    own = [line for line in shown.splitlines() if "--help" not in line]

    assert own
    assert all(len(line) <= columns for line in own)
    assert "<bool>" not in "\n".join(own)
    assert "install-completion" not in shown
    assert not any(
        word.endswith(("…", "...")) and word.startswith(("-", "--")) for line in own for word in line.split()
    )
    assert "..." not in shown.replace("[ARGS]...", "")
