"""Activations, and the norms and the feed-forward block that they gate, under fla's names."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.fla_cpu.norms import Norm, Normalised, add_residual, affine, project, standardise


def swish(x: Tensor) -> Tensor:
    return F.silu(x)


def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def logsigmoid(x: Tensor, temperature: float = 1.0) -> Tensor:
    return F.logsigmoid(x) / temperature


def swiglu(x: Tensor, y: Tensor) -> Tensor:
    return F.silu(x) * y


def swiglu_linear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The last projection of a SwiGLU block: W (silu(x) · y) + b."""
    return F.linear(swiglu(x, y).to(weight.dtype), weight, bias)


def sigmoidglu(x: Tensor, y: Tensor) -> Tensor:
    return torch.sigmoid(x) * y


def elu_p1(x: Tensor) -> Tensor:
    return F.elu(x) + 1


def fast_gelu_impl(x: Tensor) -> Tensor:
    """The tanh approximation of gelu(x)."""
    return F.gelu(x, approximate="tanh")


def sqrelu(x: Tensor) -> Tensor:
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


_GATES: dict[str, Callable[[Tensor], Tensor]] = {"swish": F.silu, "silu": F.silu, "sigmoid": torch.sigmoid}


def layer_norm_gated(
    x: Tensor,
    g: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str = "swish",
    residual: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    eps: float = 1e-6,
    *,
    is_rms_norm: bool = False,
) -> Normalised:
    """LayerNorm of x + residual, gated; with `prenorm` also the sum."""
    total, wide = add_residual(x, residual)
    gate = _GATES[activation](g.to(wide.dtype))
    output = (affine(standardise(wide, eps, not is_rms_norm, weight), None, bias) * gate).to(x.dtype)
    return (output, wide if residual_in_fp32 else total) if prenorm else output


rms_norm_gated = partial(layer_norm_gated, is_rms_norm=True)


class FusedLayerNormGated(Norm):
    """y = LayerNorm(x) · activation(gate)."""

    centred = True

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        bias: bool = False,
        activation: str = "swish",
        eps: float = 1e-5,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if activation not in _GATES:
            raise ValueError(f"activation is {activation!r}; choose one of {', '.join(_GATES)}")
        super().__init__(hidden_size, elementwise_affine, bias, eps, device, dtype)
        self.activation = activation

    def forward(
        self,
        x: Tensor,
        g: Tensor,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Normalised:
        """x, g: […, hidden] → the same, in the type of x."""
        return layer_norm_gated(
            x, g, self.weight, self.bias, self.activation, residual, prenorm, residual_in_fp32, self.eps,
            is_rms_norm=not self.centred,
        )  # fmt: skip


class FusedRMSNormGated(FusedLayerNormGated):
    """y = RMSNorm(x) · activation(gate)."""

    centred = False

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        eps: float = 1e-5,
        activation: str = "swish",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(hidden_size, elementwise_affine, False, activation, eps, device, dtype)


class FusedRMSNormSwishGate(FusedRMSNormGated):
    """y = RMSNorm(x) · silu(gate), under its older name."""

    def __init__(
        self, hidden_size: int, elementwise_affine: bool = True, eps: float = 1e-5, *rest: Any, **options: Any
    ) -> None:
        super().__init__(hidden_size, elementwise_affine, eps, "swish", *rest, **options)


class FusedLayerNormSwishGate(FusedLayerNormGated):
    """y = LayerNorm(x) · silu(gate), under its older name."""

    def __init__(
        self, hidden_size: int, elementwise_affine: bool = True, bias: bool = False, *rest: Any, **options: Any
    ) -> None:
        super().__init__(hidden_size, elementwise_affine, bias, "swish", *rest, **options)


def layer_norm_swish_gate_linear(
    x: Tensor,
    g: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    residual: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    eps: float = 1e-6,
    *,
    is_rms_norm: bool = False,
) -> Normalised:
    """A projection of LayerNorm(x + residual) · silu(g); with `prenorm` also the sum."""
    gated = layer_norm_gated(
        x, g, norm_weight, norm_bias, "swish", residual, True, residual_in_fp32, eps, is_rms_norm=is_rms_norm
    )  # fmt: skip
    return project(gated, linear_weight, linear_bias, prenorm)


rms_norm_swish_gate_linear = partial(layer_norm_swish_gate_linear, is_rms_norm=True)


class FusedRMSNormSwishGateLinear(FusedRMSNormSwishGate):
    """y = W (RMSNorm(x) · silu(gate)) + b with the weight and the bias of the call."""

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        g: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Normalised:
        """x, g: […, hidden] → […, rows of the weight]; with `prenorm` also the sum x + residual."""
        return project(super().forward(x, g, residual, True, residual_in_fp32), weight, bias, prenorm)


class FusedLayerNormSwishGateLinear(FusedRMSNormSwishGateLinear):
    """y = W (LayerNorm(x) · silu(gate)) + b with the weight and the bias of the call."""

    centred = True


def layernorm_fn(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
) -> Tensor:
    """LayerNorm or RMSNorm in groups of `group_size` features, gated by silu(z) before or after (Mamba-2)."""
    _, wide = add_residual(x, None)
    gate = 1.0 if z is None else F.silu(z.to(wide.dtype))
    groups = (wide if norm_before_gate else wide * gate).reshape(*x.shape[:-1], -1, group_size or x.shape[-1])
    output = affine(standardise(groups, eps, not is_rms_norm).flatten(-2), weight, bias)
    return (output * gate if norm_before_gate else output).to(x.dtype)


rmsnorm_fn = partial(layernorm_fn, is_rms_norm=True)


class LayerNormGated(Norm):
    """`layernorm_fn` as a module; by default the gate comes after the norm."""

    centred = True

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(hidden_size, True, self.centred, eps, device, dtype)
        self.group_size = group_size
        self.norm_before_gate = self.centred if norm_before_gate is None else norm_before_gate

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """x, z: […, hidden] → the same, in the type of x."""
        return layernorm_fn(
            x, self.weight, self.bias, z, self.eps, self.group_size, self.norm_before_gate, not self.centred
        )


class RMSNormGated(LayerNormGated):
    """`rmsnorm_fn` as a module, without a bias; by default the gate comes before the norm."""

    centred = False


class GatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x)) (GLU variants, arXiv:2002.05202)."""

    def __init__(
        self,
        hidden_size: int,
        hidden_ratio: int | None = None,
        intermediate_size: int | None = None,
        hidden_act: str = "swish",
        fuse_swiglu: bool = True,
    ) -> None:
        super().__init__()
        del fuse_swiglu
        if hidden_act not in ("swish", "silu"):
            raise ValueError(f"hidden_act is {hidden_act!r}; choose swish or silu")
        if intermediate_size is None:
            intermediate_size = 256 * -(-int(hidden_size * (hidden_ratio or 4) * 2 / 3) // 256)
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor, **_options: object) -> Tensor:
        down: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return down
