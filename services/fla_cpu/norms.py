"""Norms, computed in float32 and returned in the type of the input, and norms followed by a projection.

RMSNorm (arXiv:1910.07467), LayerNorm, GroupNorm, and division by the Euclidean length, x / √(Σ x² + ε).
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from services.fla_cpu.shapes import upcast


def l2norm(x: Tensor, eps: float = 1e-6, output_dtype: torch.dtype | None = None) -> Tensor:
    """[…, d] → […, d] in the type of x, or in `output_dtype`."""
    scaled: Tensor = _Standardise.apply(upcast(x), None, eps, 1)  # type: ignore[no-untyped-call]
    return scaled.to(output_dtype or x.dtype)


l2_norm = l2norm


class L2Norm(nn.Module):
    """`l2norm` as a module without parameters."""

    def __init__(self, eps: float = 1e-6, output_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.eps = eps
        self.output_dtype = output_dtype

    def forward(self, x: Tensor) -> Tensor:
        return l2norm(x, self.eps, self.output_dtype)


Normalised = Tensor | tuple[Tensor, Tensor]


def standardise(x: Tensor, eps: float, centred: bool, weight: Tensor | None = None) -> Tensor:
    """x / √(mean x² + ε) · weight over the last dimension; the mean of x is subtracted first if `centred`."""
    x = x - x.mean(-1, keepdim=True) if centred else x
    weight = None if weight is None else weight.to(x.dtype)
    scaled: Tensor = _Standardise.apply(x, weight, eps, x.shape[-1])  # type: ignore[no-untyped-call]
    return scaled


class _Standardise(torch.autograd.Function):
    """x / √(Σ x² / count + ε) · weight over the last dimension, with half of autograd's memory traffic.

    There is no second derivative, as in fla's kernels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float, count: int) -> Tensor:
        """x: […, d], weight: [d] → […, d]."""
        scale = torch.rsqrt(x.square().sum(-1, keepdim=True) / count + eps)
        ctx.save_for_backward(x, weight, scale)
        ctx.count = count
        scaled = x * scale
        return scaled if weight is None else scaled.mul_(weight)

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator, unused-ignore]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, weight, scale = ctx.saved_tensors
        scaled = x * scale
        d_weight = None
        if weight is not None:
            d_weight = (gradient * scaled).flatten(0, -2).sum(0) if gradient.dim() > 1 else gradient * scaled
            gradient = gradient * weight
        along = (gradient * scaled).sum(-1, keepdim=True).div_(-ctx.count)
        return torch.addcmul(gradient, scaled, along).mul_(scale), d_weight, None, None


def affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """x · weight + bias, both optional."""
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def add_residual(x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
    """x + residual, in its own precision and in float32 or higher."""
    total = x if residual is None else x + residual
    return total, upcast(total)


def rms_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
) -> Normalised:
    """RMSNorm of x + residual; with `prenorm` also the sum."""
    total, wide = add_residual(x, residual)
    output = affine(standardise(wide, eps, False, weight), None, bias).to(x.dtype)
    return (output, wide if residual_in_fp32 else total) if prenorm else output


def group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    num_groups: int = 1,
) -> Normalised:
    """LayerNorm or RMSNorm of x + residual in groups of the last dimension; with `prenorm` also the sum."""
    if x.shape[-1] % num_groups:
        raise ValueError(f"the last dimension of x, {x.shape[-1]}, must be a multiple of num_groups ({num_groups})")
    total, wide = add_residual(x, residual)
    groups = wide.reshape(*wide.shape[:-1], num_groups, -1)
    normalised = standardise(groups, eps, centred=not is_rms_norm).reshape(wide.shape)
    output = affine(normalised, weight, bias).to(x.dtype)
    return (output, wide if residual_in_fp32 else total) if prenorm else output


layer_norm = group_norm


class Norm(nn.Module):
    """Base class with a weight of ones and an optional bias of zeros."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        bias: bool = False,
        eps: float = 1e-5,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.elementwise_affine = elementwise_affine
        self.eps = eps
        ones = torch.ones(hidden_size, device=device, dtype=dtype)
        self.register_parameter("weight", nn.Parameter(ones) if elementwise_affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros_like(ones)) if bias and elementwise_affine else None)

    def reset_parameters(self) -> None:
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class RMSNorm(Norm):
    """y = x / √(mean x² + ε) · weight."""

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Normalised:
        return rms_norm(x, self.weight, self.bias, residual, self.eps, prenorm, residual_in_fp32)


class LayerNorm(Norm):
    """y = (x − mean) / √(var + ε) · weight."""

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Normalised:
        return layer_norm(x, self.weight, self.bias, residual, self.eps, prenorm, residual_in_fp32)


class GroupNorm(Norm):
    """LayerNorm or RMSNorm in each of `num_groups` groups of the last dimension, with one weight for all."""

    def __init__(
        self,
        num_groups: int,
        hidden_size: int,
        elementwise_affine: bool = True,
        bias: bool = False,
        eps: float = 1e-5,
        is_rms_norm: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if hidden_size % num_groups:
            raise ValueError(f"hidden_size ({hidden_size}) must be a multiple of num_groups ({num_groups})")
        super().__init__(hidden_size, elementwise_affine, bias, eps, device, dtype)
        self.num_groups = num_groups
        self.is_rms_norm = is_rms_norm

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Normalised:
        return group_norm(
            x, self.weight, self.bias, residual, self.eps, prenorm, residual_in_fp32, self.is_rms_norm, self.num_groups
        )  # fmt: skip


def layer_norm_linear(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    num_groups: int = 1,
) -> Normalised:
    """A projection of the norm of x + residual; with `prenorm` also the sum."""
    normalised = group_norm(
        x, norm_weight, norm_bias, residual, eps, True, residual_in_fp32, is_rms_norm, num_groups
    )  # fmt: skip
    return project(normalised, linear_weight, linear_bias, prenorm)


def project(pair: Normalised, weight: Tensor, bias: Tensor | None, prenorm: bool) -> Normalised:
    """A projection of the first of (norm, sum); with `prenorm` also the sum."""
    output, total = pair
    projected = F.linear(output.to(weight.dtype), weight, bias)
    return (projected, total) if prenorm else projected


group_norm_linear = layer_norm_linear
rms_norm_linear = partial(layer_norm_linear, is_rms_norm=True)


class GroupNormLinear(GroupNorm):
    """GroupNorm followed by a projection with the weight and the bias of the call."""

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Normalised:
        """[…, hidden] → […, rows of the weight]; with `prenorm` also the sum x + residual."""
        return layer_norm_linear(
            x, self.weight, self.bias, weight, bias, residual, self.eps, prenorm, residual_in_fp32,
            self.is_rms_norm, self.num_groups,
        )  # fmt: skip


class LayerNormLinear(GroupNormLinear):
    """LayerNorm followed by a projection with the weight and the bias of the call."""

    centred = True

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        bias: bool = False,
        eps: float = 1e-5,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(1, hidden_size, elementwise_affine, bias, eps, not self.centred, device, dtype)


class RMSNormLinear(LayerNormLinear):
    """RMSNorm followed by a projection with the weight and the bias of the call."""

    centred = False
