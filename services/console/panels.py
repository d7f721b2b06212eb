"""The order of the commands in `asi-arch --help`: by what somebody wants to do."""

from collections.abc import Mapping, Sequence

import typer
from typer.models import CommandInfo

PANELS: Mapping[str, Sequence[str]] = {
    "A run": ("run", "discover", "watch", "status", "pause", "resume", "stop", "runs"),
    "What it found": ("list", "show", "tree", "lineage", "compare", "diff", "report", "gallery", "web", "cost"),
    "Whether it holds": ("audit", "replay", "ablate", "rescore", "judge", "stopping"),
    "Without a run": ("check", "train", "propose", "prompt", "cognition"),
    "Moving archives": ("export", "import", "backup", "restore"),
    "Operating": ("setup", "autoscale", "worker", "dead"),
}


def arrange(app: typer.Typer) -> None:
    """Put every command into its panel, in order. Raises KeyError for one that has none."""
    panels = {name: panel for panel, names in PANELS.items() for name in names}
    places = {name: place for place, name in enumerate(panels)}
    for command in app.registered_commands:
        command.rich_help_panel = panels[_name(command)]
    for group in app.registered_groups:
        group.rich_help_panel = panels[str(group.name)]
    app.registered_commands.sort(key=lambda one: places[_name(one)])


def _name(command: CommandInfo) -> str:
    assert command.callback is not None  # noqa: S101 - the decorator registers functions
    return command.name or command.callback.__name__
