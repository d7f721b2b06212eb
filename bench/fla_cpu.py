"""Speed of the CPU operators against a loop over tokens: forward and backward, one thread, float32.

    python -m bench.fla_cpu [--batch 8] [--length 256] [--heads 4] [--width 32] [--repeats 10]

Prints for each operator the minimum time over the repeats in microseconds per token, for the forward pass and for both
passes, the same for the loop, and the ratio.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from services.fla_cpu.decay import chunk_gla, chunk_simple_gla
from services.fla_cpu.delta import chunk_delta_rule, chunk_gated_delta_rule
from services.fla_cpu.delta_variants import chunk_kda

Operator = Callable[..., tuple[Tensor, Tensor | None]]
OPERATORS: dict[str, tuple[Operator, str]] = {
    "chunk_delta_rule": (chunk_delta_rule, "beta"),
    "chunk_gated_delta_rule": (chunk_gated_delta_rule, "beta g"),
    "chunk_kda": (chunk_kda, "beta gk"),
    "chunk_simple_gla": (chunk_simple_gla, "g"),
    "chunk_gla": (chunk_gla, "gk"),
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of the inputs; `width` is that of one head."""

    batch: int
    length: int
    heads: int
    width: int


def token_by_token(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None = None, beta: Tensor | None = None
) -> tuple[Tensor, None]:
    """The recurrence of all five operators as in their papers."""
    state, outputs = torch.zeros_like(k[:, 0, :, :, None] * v[:, 0, :, None]), []
    for t in range(q.shape[1]):
        if g is not None:
            decay = g[:, t].exp()
            state = state * (decay.unsqueeze(-1) if decay.dim() == 3 else decay[..., None, None])
        value = v[:, t]
        if beta is not None:
            value = beta[:, t, :, None] * (value - (state * k[:, t].unsqueeze(-1)).sum(-2))
        state = state + k[:, t].unsqueeze(-1) * value.unsqueeze(-2)
        outputs.append((state * q[:, t].unsqueeze(-1)).sum(-2))
    return torch.stack(outputs, dim=1) * q.shape[-1] ** -0.5, None


def inputs(sizes: Sizes, extra: str) -> dict[str, Tensor]:
    """Leaf tensors that require gradients, by the names of the operators' arguments."""
    torch.manual_seed(0)
    rows = (sizes.batch, sizes.length, sizes.heads)
    tensors = {name: torch.randn(*rows, sizes.width) for name in ("q", "v")}
    tensors["k"] = F.normalize(torch.randn(*rows, sizes.width), dim=-1)
    for name in extra.split():
        drawn = torch.randn(*rows, sizes.width) if name == "gk" else torch.randn(rows)
        tensors[name[:1] if name == "gk" else name] = drawn.sigmoid() if name == "beta" else F.logsigmoid(drawn)
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def microseconds(operator: Operator, tensors: dict[str, Tensor], repeats: int) -> tuple[float, float]:
    """Minimum over the repeats, per token: forward, and forward with backward."""
    forward, both = [], []
    for _ in range(repeats + 2):  # the first two warm up
        started = time.perf_counter()
        output, _ = operator(**tensors)
        forward.append(time.perf_counter() - started)
        torch.autograd.grad(output.sum(), list(tensors.values()))
        both.append(time.perf_counter() - started)
    tokens = tensors["q"].shape[0] * tensors["q"].shape[1]
    return min(forward[2:]) / tokens * 1e6, min(both[2:]) / tokens * 1e6


def main() -> None:
    """Print one line for each operator."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, usual in (("batch", 8), ("length", 256), ("heads", 4), ("width", 32), ("repeats", 10)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = Sizes(options.batch, options.length, options.heads, options.width)
    print(f"{sizes}, torch {torch.__version__}, µs per token: forward / forward and backward")
    for name, (operator, extra) in OPERATORS.items():
        tensors = inputs(sizes, extra)
        forward, both = microseconds(operator, tensors, options.repeats)
        slow_forward, slow_both = microseconds(token_by_token, tensors, max(1, options.repeats // 5))
        print(
            f"{name:24} {forward:6.2f} / {both:6.2f}   loop {slow_forward:7.2f} / {slow_both:7.2f}   "
            f"{slow_both / both:5.1f} times faster"
        )


if __name__ == "__main__":
    main()
