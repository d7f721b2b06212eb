"""Checkpoints as the host keeps them: one safetensors file, written whole or not at all. Children never see it."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from services.engineer.training.ports import Array
from services.engineer.training.result import CurvePoint


@dataclass(frozen=True)
class Checkpoint:
    """Everything to go on from: the child's arrays, the steps done, the curve and the seconds so far.

    `identity` is a hash of what must not change across a resume (program, seed, scale, data).
    """

    identity: str
    step: int
    seconds: float
    curve: tuple[CurvePoint, ...]
    arrays: Mapping[str, Array]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file at `path` atomically and durably."""
    about = {
        "identity": checkpoint.identity,
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "curve": [asdict(point) for point in checkpoint.curve],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(dict(checkpoint.arrays), partial, metadata={"checkpoint": json.dumps(about)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def read_checkpoint(path: Path, identity: str) -> Checkpoint | None:
    """The checkpoint at `path`, or None where there is none or it belongs to another program, seed, scale or data."""
    if not path.is_file():
        return None
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["checkpoint"])
    if about["identity"] != identity:
        return None
    curve = tuple(CurvePoint(**point) for point in about["curve"])
    return Checkpoint(identity, about["step"], about["seconds"], curve, load_file(path))
