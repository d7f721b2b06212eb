"""Runs hostile programs and inspects what they leave behind."""

from pathlib import Path

import numpy as np

from services.sandbox import ChildError, Limits, Sandbox
from tests.sandbox.jobs import WIDTH

JOBS = "tests.sandbox.jobs"
LIMITS = Limits(memory_bytes=256 << 20, cpu_seconds=0.6, wall_seconds=0.9, processes=32, file_bytes=8 << 20)
BENIGN = """
import torch


class Mixer(torch.nn.Linear):
    def __init__(self, hidden_size):
        super().__init__(hidden_size, hidden_size)
"""


async def rejection(sandbox: Sandbox, program: str, limits: Limits = LIMITS) -> tuple[str | None, str]:
    """Why the program was rejected, None if it was not, and the end of its log.

    A program that defines no mixer gets a harmless one, so that it is rejected for what it does.
    """
    program = program if "class Mixer" in program else program + BENIGN
    values = np.ones((2, 5, WIDTH), np.float32)
    async with sandbox.child(f"{JOBS}:examine", limits) as child:
        try:
            await child.send("program", {"program": program})
            if (kind := (await child.receive(timeout=5)).kind) != "loaded":
                return f"{kind} came out of turn", child.log_tail()
            await child.send("run", {}, {"input": values})
            output = (await child.receive(timeout=5)).arrays.get("output")
        except ChildError as error:
            return error.reason, error.log_tail or child.log_tail()
        if output is None or output.shape != values.shape or not np.isfinite(output).all():
            return "the output is missing, misshapen or not finite", child.log_tail()
        return None, child.log_tail()


def snapshot(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
