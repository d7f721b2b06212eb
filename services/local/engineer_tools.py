"""The engineer's tools, as children of this process: the values of a scale, a precision, a check or a training.

`require_effective` validates the options of a run with them.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from services.archive.policies import OF_HALVING, OF_PAPER, OF_PROMOTION, climb_of_run, stopping_rule
from services.archive.scoring import objectives_of
from services.chassis.errors import NotPossible, SettingsError
from services.contracts import events_pb2 as pb
from services.llm.port import MIXED, OFFLINE
from services.local.plan import SETTINGS, RunOptions, flag_of
from services.local.processes import ends_with_parent

FP32 = "fp32"


def scale_values(flag: str, scale: str, overrides: Mapping[str, str], *options: str) -> dict[str, Any]:
    """All settings of a scale with overrides, from the engineer's own rules. Raises SettingsError naming the flag."""
    command = [sys.executable, "-m", "services.engineer.scales", scale, *_pairs(overrides), *options]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        reason = process.stderr.strip().rpartition("\n")[2]
        raise SettingsError(f"{flag}: {reason or f'scale {scale} cannot be read'}")
    values: dict[str, Any] = json.loads(process.stdout)
    return values


def require_effective(options: RunOptions, settings: pb.RunSettings, here: bool = False) -> None:
    """Validate all overrides of scales with the engineer's own rules, and that something reads each option.

    `here`: an engineer on this machine will train, so that the run's own text and tasks are read, too. Raises
    SettingsError naming an override that a stage of this run does not know, its invalid value, or the option.
    """
    read = ("--read",) if here else ()
    for names, is_unread, when in _dependent(settings, options.policies):
        if is_unread and (policies := sorted(names & options.policies.keys())):
            raise SettingsError(f"--policy {policies[0]} has no effect {when}.")
        if is_unread and (others := sorted(names & options.model_fields_set)):
            flag = flag_of(others[0], SETTINGS[others[0]]).replace("_", "-")
            raise SettingsError(f"--{flag} has no effect {when}.")
    if settings.scale_overrides:
        flag = f"--corpus or {options.changes_of_scale}" if options.corpus else options.changes_of_scale
        values = scale_values(flag, settings.scale, settings.scale_overrides, *read)
        objectives = [objective.name for objective in objectives_of(settings)]
        if "benchmark" in objectives and not values["averaged"]:
            raise SettingsError(f"--policy objectives: no task is averaged, so benchmark is not measured: see {flag}.")
    for stage in climb_of_run(settings).stages:
        if stage.overrides:
            scale_values(f"--policy stages ({stage.scale})", stage.scale, dict(stage.overrides), *read)


def _dependent(settings: pb.RunSettings, given: Mapping[str, str]) -> Iterator[tuple[frozenset[str], bool, str]]:
    """Options that are read only together with others, whether these settings leave them unread, and when that is so.

    `given` are the policies that were set explicitly.
    """
    promotion, mind, ablations = settings.promotion or "none", settings.mind or OFFLINE, settings.ablations
    yield OF_PROMOTION, promotion == "none", "without --promotion paper or halving"
    yield OF_PAPER, promotion != "paper", "without --promotion paper"
    yield OF_HALVING, promotion != "halving", "without --promotion halving"
    yield frozenset(("prune",)), "stopping" in given, "beside --policy stopping"
    extrapolates = stopping_rule(settings.policies) == "extrapolation"
    yield frozenset(("prune_from",)), not extrapolates, "without --policy stopping=extrapolation"
    yield frozenset(("experiments", "judge_times")), mind == OFFLINE, "with --mind offline"
    yield frozenset(("search",)), mind not in (OFFLINE, MIXED), f"with --mind {mind}"
    yield frozenset(("judge_times",)), ablations.without_judge, "with --without judge"
    yield frozenset(("parent_policy",)), ablations.random_parent, "with --random-parent"


def suited_precision(scale: str, overrides: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """The overrides to repeat trainings with, and a sentence if they differ: fp32 for slow bf16. Raises NotPossible."""
    values = scale_values("the run's scale", scale, overrides)
    if values["precision"] == FP32 or values["device"] == "cuda":
        return dict(overrides), ""
    slow = _json_of("services.engineer.speed", [scale, *_pairs(overrides)])["slow"]
    if not slow:
        return dict(overrides), ""
    return {**overrides, "precision": FP32}, f"{slow}: trainings are repeated in {FP32}, so losses differ a little"


def engineer_tool(
    tool: str, program: str, scale: str, overrides: Mapping[str, str], *arguments: str
) -> dict[str, object]:
    """The JSON result of the engineer's `check` or `train` of a program. Raises NotPossible if it ends without one."""
    sets = [part for pair in _pairs(overrides) for part in ("--set", pair)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.py"
        file.write_text(program, encoding="utf-8")
        options = [tool, str(file), "--json", "--scale", scale, *sets, *arguments]
        return _json_of("services.engineer.tools", options)


def train_again(label: str, program: str, scale: str, overrides: Mapping[str, str], seed: int) -> dict[str, object]:
    """The JSON result of a training, whose lines of progress on stderr begin with the label. Raises NotPossible."""
    own = f"{label}, seed {seed}"
    return engineer_tool("train", program, scale, overrides, "--seed", str(seed), "--label", own)


def _pairs(overrides: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in sorted(overrides.items())]


def _json_of(module: str, arguments: Sequence[str]) -> dict[str, object]:
    command = ends_with_parent([sys.executable, "-m", module, *arguments])
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    try:
        result: dict[str, object] = json.loads(process.stdout)
    except ValueError:
        raise NotPossible(f"the engineer's tool ended with status {process.returncode} and no result") from None
    return result
