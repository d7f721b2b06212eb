"""Norms multiplied by an activated gate: y = norm(x) · activation(g)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from services.fla_cpu.modules.layernorm import Norm, Normalised, added, affine, standardised

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"swish": F.silu, "silu": F.silu, "sigmoid": torch.sigmoid}


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
) -> Normalised:
    """LayerNorm of x + residual, gated; with `prenorm` also that sum."""
    return _gated(x, g, weight, bias, activation, residual, prenorm, residual_in_fp32, eps, centred=True)


def rms_norm_gated(
    x: Tensor,
    g: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str = "swish",
    residual: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    eps: float = 1e-6,
) -> Normalised:
    """RMSNorm of x + residual, gated; with `prenorm` also that sum."""
    return _gated(x, g, weight, bias, activation, residual, prenorm, residual_in_fp32, eps, centred=False)


def _gated(
    x: Tensor,
    g: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str,
    residual: Tensor | None,
    prenorm: bool,
    residual_in_fp32: bool,
    eps: float,
    *,
    centred: bool,
) -> Normalised:
    total, wide = added(x, residual)
    gate = ACTIVATIONS[activation](g.to(wide.dtype))
    output = (affine(standardised(wide, eps, centred), weight, bias) * gate).to(x.dtype)
    return (output, wide if residual_in_fp32 else total) if prenorm else output


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
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; choose one of {', '.join(ACTIVATIONS)}")
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
        apply = layer_norm_gated if self.centred else rms_norm_gated
        return apply(
            x, g, self.weight, self.bias, self.activation, residual, prenorm, residual_in_fp32, self.eps
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
    """y = RMSNorm(x) · silu(gate), by its older name."""

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        eps: float = 1e-5,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(hidden_size, elementwise_affine, eps, "swish", device, dtype)


class FusedLayerNormSwishGate(FusedLayerNormGated):
    """y = LayerNorm(x) · silu(gate), by its older name."""

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        bias: bool = False,
        eps: float = 1e-5,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(hidden_size, elementwise_affine, bias, "swish", eps, device, dtype)
