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
    """gelu(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """[…, d] → […, d]."""
        return F.gelu(x)


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
        both = torch.cat([x.relu(), -x.relu()], dim=-1)
        rolled = torch.cat([both.roll(shift, dims=-1) for shift in range(1, self.nu + 1)], dim=-1)
        return torch.cat([both] * self.nu, dim=-1) * rolled


class TaylorFeatureMap(nn.Module):
    """[1, x/d^¼, x⊗x/(√2·√d)]: the exponential to second order (Based, arXiv:2402.18668)."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.root = math.sqrt(head_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[…, d] → […, 1 + d + d²]."""
        square = (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)
        return torch.cat(
            [torch.ones_like(x[..., :1]), x / math.sqrt(self.root), square / (math.sqrt(2) * self.root)], -1
        )
