"""Overrides of a scale, tried before anything starts: the engineer's own rules say what is impossible."""

import subprocess
import sys
from collections.abc import Mapping

from services.chassis.errors import SettingsError
from services.contracts import events_pb2 as pb
from services.domain.ladder_settings import climb_of


def must_be_possible(settings: pb.RunSettings) -> None:
    """Raises SettingsError naming an override that a stage of this run does not know, or its impossible value."""
    _try("--set", settings.scale, settings.scale_overrides)
    climb = climb_of(settings.promotion, dict(settings.policies), settings.scale, dict(settings.scale_overrides))
    for stage in climb.stages:
        _try(f"--policy stages ({stage.scale})", stage.scale, dict(stage.overrides))


def _try(flag: str, scale: str, overrides: Mapping[str, str]) -> None:
    if not overrides:
        return
    pairs = [f"{name}={value}" for name, value in sorted(overrides.items())]
    command = [sys.executable, "-m", "services.engineer.scales", scale, *pairs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SettingsError(f"{flag}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'impossible'}")
