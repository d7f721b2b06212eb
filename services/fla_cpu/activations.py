"""Activations, the gated feed-forward block, and feature maps of linear attention, under fla's names."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    """The last projection of a SwiGLU block: W (silu(x) · y) + b."""
    return F.linear(swiglu(x, y).to(weight.dtype), weight, bias)


def sigmoidglu(x: Tensor, y: Tensor) -> Tensor:
    """σ(x) · y."""
    return torch.sigmoid(x) * y


def elu_p1(x: Tensor) -> Tensor:
    """elu(x) + 1, which is positive."""
    return F.elu(x) + 1


def fast_gelu_impl(x: Tensor) -> Tensor:
    """The tanh approximation of gelu(x)."""
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


class ReLUFeatureMap(nn.Module):
    """relu(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """[…, d] → […, d]."""
        return F.relu(x)


class SquaredReLUFeatureMap(nn.Module):
    """relu(x)²."""

    def forward(self, x: Tensor) -> Tensor:
        """[…, d] → […, d]."""
        return F.relu(x).square()


class GELUFeatureMap(nn.Module):
    """The tanh approximation of gelu(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """[…, d] → […, d]."""
        return F.gelu(x, approximate="tanh")


class SwishFeatureMap(nn.Module):
    """silu(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """[…, d] → […, d]."""
        return F.silu(x)


class SigmoidFeatureMap(nn.Module):
    """σ(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """[…, d] → […, d]."""
        return torch.sigmoid(x)


class HedgehogFeatureMap(nn.Module):
    """softmax of [Wx, −Wx] (Hedgehog, arXiv:2402.04347)."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(head_dim, head_dim)
        nn.init.eye_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[…, d] → […, 2d]."""
        x = self.layer(x)
        return torch.cat([2 * x, -2 * x], dim=-1).softmax(-1)


class T2RFeatureMap(nn.Module):
    """relu(Wx) (arXiv:2103.13076)."""

    def __init__(self, head_dim: int, dot_dim: int | None = None, bias: bool | None = False) -> None:
        super().__init__()
        self.layer = nn.Linear(head_dim, dot_dim or head_dim, bias=bool(bias))

    def forward(self, x: Tensor) -> Tensor:
        """[…, d] → […, dot_dim]."""
        return F.relu(self.layer(x))


class DPFPFeatureMap(nn.Module):
    """Products of rotated rectified features (arXiv:2102.11174)."""

    def __init__(self, head_dim: int, nu: int = 4) -> None:
        super().__init__()
        self.nu = nu
        self.head_dim = head_dim

    def forward(self, x: Tensor) -> Tensor:
        """[…, d] → […, 2·d·nu]."""
        both = torch.cat([F.relu(x), F.relu(-x)], dim=-1)
        rolled = torch.cat([both.roll(shift, dims=-1) for shift in range(1, self.nu + 1)], dim=-1)
        return torch.cat([both] * self.nu, dim=-1) * rolled


class TaylorFeatureMap(nn.Module):
    """[1, x/d^¼, x_i²/√(2d), x_i x_j/√d for i < j]: the exponential to second order (Based, arXiv:2402.18668)."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim

    def forward(self, x: Tensor) -> Tensor:
        """[…, d] → […, 1 + d + d·(d + 1)/2]."""
        root = math.sqrt(self.head_dim)
        squares, pairs = x.square() / (math.sqrt(2) * root), _pairs(x, x, 1) / root
        return torch.cat([torch.ones_like(x[..., :1]), x / math.sqrt(root), squares, pairs], dim=-1)


class HadamardFeatureMap(nn.Module):
    """(W₁x + b₁) ⊙ (W₂x + b₂)."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(head_dim, head_dim)
        self.layer2 = nn.Linear(head_dim, head_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[…, d] → […, d]."""
        product: Tensor = self.layer1(x) * self.layer2(x)
        return product


class LearnableOuterProductFeatureMap(nn.Module):
    """Products (W₁x)_i (W₂x)_j for i ≤ j."""

    def __init__(self, head_dim: int, feature_dim: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(head_dim, feature_dim, bias=False)
        self.layer2 = nn.Linear(head_dim, feature_dim, bias=False)
        self.normalizer = feature_dim**-0.5

    def forward(self, x: Tensor) -> Tensor:
        """[…, d] → […, f·(f + 1)/2] for f features."""
        return _pairs(self.layer1(x), self.layer2(x), 0)


class RebasedFeatureMap(nn.Module):
    """Squares and products of normalised features (ReBased, arXiv:2402.10644): x_i²/√d and x_i x_j·√(2/d) for i < j."""

    def __init__(
        self, head_dim: int, use_gamma: bool | None = True, use_beta: bool | None = True, normalize: bool | None = True
    ) -> None:
        super().__init__()
        if not normalize and not use_gamma:
            raise ValueError("without normalize, use_gamma must be true")
        self.head_dim = head_dim
        self.normalize = normalize
        self.gamma = nn.Parameter(torch.ones(head_dim)) if use_gamma else None
        self.beta = nn.Parameter(torch.zeros(head_dim)) if use_beta else None

    def forward(self, x: Tensor, flatten: bool | None = True) -> Tensor:
        """[…, d] → […, d·(d + 1)/2], or only normalised without `flatten`."""
        if self.normalize:
            x = F.layer_norm(x, (self.head_dim,), self.gamma, self.beta)
        else:
            x = x if self.gamma is None else x * self.gamma
            x = x if self.beta is None else x + self.beta
        if not flatten:
            return x
        squares, pairs = x.square() * self.head_dim**-0.5, _pairs(x, x, 1) * (2 / self.head_dim) ** 0.5
        return torch.cat([squares, pairs], dim=-1)


def _pairs(x: Tensor, y: Tensor, above: int) -> Tensor:
    """[…, d] and […, d] → x_i y_j for j ≥ i + above, by rows."""
    rows, columns = torch.triu_indices(x.shape[-1], x.shape[-1], above, device=x.device).unbind(0)
    return x[..., rows] * y[..., columns]


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

    def forward(self, x: Tensor, **options: object) -> Tensor:
        """[…, hidden] → […, hidden]."""
        del options
        down: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return down
