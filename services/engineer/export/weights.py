"""Kept weights as a file that torch alone reads."""

from pathlib import Path

import torch
from safetensors.torch import load


def write_state(content: bytes, path: Path) -> None:
    """A safetensors artifact as a file for `torch.load(…, weights_only=True)`."""
    torch.save(load(content), path)
