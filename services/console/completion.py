"""Names for the shell's completion, from the folders of ASI_DATA_DIR: no service is asked, so that it is quick."""

import os
from pathlib import Path

import typer


def runs(incomplete: str) -> list[str]:
    """Runs that this machine has worked on."""
    return [name for name in _folders("runs") | _folders("work") if name.startswith(incomplete)]


def candidates(context: typer.Context, incomplete: str) -> list[str]:
    """Candidates of the run named by --run, else of all runs, that this machine has trained."""
    run = str(context.params.get("run") or "")
    found = _folders(f"work/{run}") if run else {one for name in _folders("work") for one in _folders(f"work/{name}")}
    return [name for name in sorted(found) if name.startswith(incomplete) and "-" not in name]


def _folders(below: str) -> set[str]:
    place = Path(os.environ.get("ASI_DATA_DIR", ".data")) / below
    return {one.name for one in place.iterdir() if one.is_dir()} if place.is_dir() else set()
