"""Activations by the names that programs use."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def swish(x: Tensor) -> Tensor:
    """x · σ(x)."""
    return F.silu(x)


def sigmoid(x: Tensor) -> Tensor:
    """σ(x)."""
    return torch.sigmoid(x)


def logsigmoid(x: Tensor, temperature: float = 1.0) -> Tensor:
    """log σ(x) / temperature."""
    return F.logsigmoid(x) / temperature


def swiglu(x: Tensor, y: Tensor) -> Tensor:
    """silu(x) · y."""
    return F.silu(x) * y


def swiglu_linear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The last projection of a SwiGLU block with it."""
    return F.linear(swiglu(x, y).to(weight.dtype), weight, bias)


def sigmoidglu(x: Tensor, y: Tensor) -> Tensor:
    """σ(x) · y."""
    return torch.sigmoid(x) * y


def elu_p1(x: Tensor) -> Tensor:
    """elu(x) + 1, which is positive."""
    return F.elu(x) + 1


def fast_gelu_impl(x: Tensor) -> Tensor:
    """gelu(x), by its approximation with tanh."""
    return F.gelu(x, approximate="tanh")


def sqrelu(x: Tensor) -> Tensor:
    """relu(x)²."""
    return F.relu(x).square()


ACT2FN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": fast_gelu_impl,
    "sigmoid": sigmoid,
    "logsigmoid": logsigmoid,
    "silu": swish,
    "swish": swish,
    "sqrelu": sqrelu,
}
