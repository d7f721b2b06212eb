"""What one token costs in floating-point operations. Guest side."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from services.engineer.training.build import build_model
from services.engineer.training.model import autocast
from services.engineer.training.sizes import ModelSizes


def flops_per_token(program: str, sizes: ModelSizes, context: int, precision: str, device: str = "cpu") -> float | None:
    """Forward and backward operations per token, counted on the CPU over one row of `context` tokens.

    Matrix products, convolutions and attention are counted, element-wise work is not. None in a process that trains on
    a GPU: Triton's kernels are not counted there, and a number without them would be wrong.
    """
    if device != "cpu":
        return None
    state = torch.get_rng_state()
    model = build_model(program, sizes, seed=0, device="cpu")
    rows = torch.zeros(1, context + 1, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        with autocast("cpu", precision):
            loss, _ = model(rows[:, :-1], rows[:, 1:])
        torch.autograd.backward(loss)
    torch.set_rng_state(state)
    return int(counter.get_total_flops()) / context
