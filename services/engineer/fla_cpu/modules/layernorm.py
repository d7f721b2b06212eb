"""RMSNorm (arXiv:1910.07467), LayerNorm and GroupNorm, computed in float32 and given in the type of the input."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Normalised = Tensor | tuple[Tensor, Tensor]


class _Norm(nn.Module):
    """A weight of ones, perhaps a bias of zeros, over the last dimension; adds a residual first where one is given."""

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
        """Back to ones and zeros."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Normalised:
        """[…, hidden] → the same; with `prenorm` also the sum that was normalised."""
        total = x if residual is None else x + residual
        wide = total if total.dtype == torch.float64 else total.float()
        output = self._affine(self._normalise(wide)).to(x.dtype)
        return (output, wide if residual_in_fp32 else total) if prenorm else output

    def _affine(self, x: Tensor) -> Tensor:
        x = x if self.weight is None else x * self.weight
        return x if self.bias is None else x + self.bias

    def _normalise(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class RMSNorm(_Norm):
    """y = x / √(mean x² + ε) · weight."""

    def _normalise(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


class LayerNorm(_Norm):
    """y = (x − mean) / √(var + ε) · weight."""

    def _normalise(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


class GroupNorm(_Norm):
    """LayerNorm (or RMSNorm) within each of `num_groups` parts of the last dimension, one weight for all of it."""

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

    def _normalise(self, x: Tensor) -> Tensor:
        groups = x.reshape(*x.shape[:-1], self.num_groups, -1)
        if not self.is_rms_norm:
            groups = groups - groups.mean(-1, keepdim=True)
        return (groups * torch.rsqrt(groups.square().mean(-1, keepdim=True) + self.eps)).flatten(-2)


def rms_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """RMSNorm as a function."""
    wide = x if x.dtype == torch.float64 else x.float()
    output = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    output = output if weight is None else output * weight
    return (output if bias is None else output + bias).to(x.dtype)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": nn.functional.silu,
    "silu": nn.functional.silu,
    "sigmoid": torch.sigmoid,
}


class FusedRMSNormGated(nn.Module):
    """y = RMSNorm(x) · activation(gate)."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        eps: float = 1e-5,
        activation: str = "swish",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; choose one of {', '.join(_ACTIVATIONS)}")
        self.hidden_size = hidden_size
        self.elementwise_affine = elementwise_affine
        self.eps = eps
        self.activation = activation
        ones = torch.ones(hidden_size, device=device, dtype=dtype)
        self.register_parameter("weight", nn.Parameter(ones) if elementwise_affine else None)
        self.register_parameter("bias", None)

    def reset_parameters(self) -> None:
        """Back to ones."""
        if self.weight is not None:
            nn.init.ones_(self.weight)

    def forward(
        self,
        x: Tensor,
        g: Tensor,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Normalised:
        """x, g: […, hidden] → the same, in the type of x."""
        total = x if residual is None else x + residual
        wide = total if total.dtype == torch.float64 else total.float()
        gate = _ACTIVATIONS[self.activation](g.to(wide.dtype))
        output = (rms_norm(wide, self.weight, None, self.eps) * gate).to(x.dtype)
        return (output, wide if residual_in_fp32 else total) if prenorm else output
