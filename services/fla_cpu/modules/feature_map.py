"""Feature maps of linear attention: what makes keys and queries positive or richer."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    """gelu(x), by its approximation with tanh."""

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
        self,
        head_dim: int,
        use_gamma: bool | None = True,
        use_beta: bool | None = True,
        normalize: bool | None = True,
    ) -> None:
        super().__init__()
        if not normalize and not use_gamma:
            raise ValueError("without normalize, use_gamma must be true")
        self.head_dim = head_dim
        self.normalize = normalize
        self.gamma = nn.Parameter(torch.ones(head_dim)) if use_gamma else None
        self.beta = nn.Parameter(torch.zeros(head_dim)) if use_beta else None

    def forward(self, x: Tensor, flatten: bool | None = True) -> Tensor:
        """[…, d] → […, d·(d + 1)/2], or normalised only if not `flatten`."""
        x = self._normalised(x)
        if not flatten:
            return x
        squares, pairs = x.square() * self.head_dim**-0.5, _pairs(x, x, 1) * (2 / self.head_dim) ** 0.5
        return torch.cat([squares, pairs], dim=-1)

    def _normalised(self, x: Tensor) -> Tensor:
        if self.normalize:
            return F.layer_norm(x, (self.head_dim,), self.gamma, self.beta)
        x = x if self.gamma is None else x * self.gamma
        return x if self.beta is None else x + self.beta


def _pairs(x: Tensor, y: Tensor, above: int) -> Tensor:
    """[…, d] and […, d] → x_i y_j for j ≥ i + above, by rows."""
    rows, columns = torch.triu_indices(x.shape[-1], x.shape[-1], above, device=x.device).unbind(0)
    return x[..., rows] * y[..., columns]
