"""Maps of queries and keys, under fla's names: feature maps of linear attention, and rotary position embedding."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.fla_cpu.shapes import upcast


class ReLUFeatureMap(nn.ReLU):
    """relu(x)."""


class SquaredReLUFeatureMap(nn.Module):
    """relu(x)²."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


class GELUFeatureMap(nn.GELU):
    """The tanh approximation of gelu(x)."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")


class SwishFeatureMap(nn.SiLU):
    """silu(x)."""


class SigmoidFeatureMap(nn.Sigmoid):
    """σ(x)."""


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


def products(x: Tensor) -> Tensor:
    """[…, d] → […, d·(d + 1)/2]: x_i² and √2 x_i x_j for i < j, whose products are squares of products of x."""
    return torch.cat([x.square(), _pairs(x, x * math.sqrt(2), 1)], dim=-1)


def _pairs(x: Tensor, y: Tensor, above: int) -> Tensor:
    """[…, d] and […, d] → x_i y_j for j ≥ i + above, by rows; gathering by an index would take twice the time."""
    rows = range(x.shape[-1] - above)
    return torch.cat([x[..., :0], *(x[..., row : row + 1] * y[..., row + above :] for row in rows)], dim=-1)


class RotaryEmbedding(nn.Module):
    """Rotates pairs of features of queries and keys by angles proportional to the position."""

    inv_freq: Tensor

    def __init__(
        self,
        dim: int,
        base: float = 10000.0,
        scale_base: float | None = None,
        interleaved: bool = False,
        pos_idx_in_fp32: bool = True,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"dim must be even, not {dim}")
        if scale_base is not None:
            raise ValueError("scale_base (XPos) is not supported without CUDA; leave it None")
        self.dim = dim
        self.base = float(base)
        self.interleaved = interleaved
        self.pos_idx_in_fp32 = pos_idx_in_fp32
        frequencies = self.base ** (-torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)
        self.register_buffer("inv_freq", frequencies, persistent=False)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        seqlen_offset: int | Tensor = 0,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        **_options: object,
    ) -> tuple[Tensor, Tensor]:
        """Rotated q and k: [b, l, h, d]; `seqlen_offset` is the position of the first token."""
        del max_seqlen
        angles = _positions(q.shape[1], seqlen_offset, cu_seqlens, q.device).unsqueeze(-1) * self.inv_freq
        cosine, sine = angles.cos(), angles.sin()
        return _rotate(q, cosine, sine, self.interleaved), _rotate(k, cosine, sine, self.interleaved)


def rotary_embedding(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool = False,
    inplace: bool = False,
    seqlen_offsets: int | Tensor = 0,
    cu_seqlens: Tensor | None = None,
    chunk_indices: Tensor | None = None,
) -> Tensor:
    """Rotated x: [b, l, h, d] by tables of the cosines and sines of each position, [positions, r/2] with r ≤ d."""
    del chunk_indices  # derived from cu_seqlens, for fla's kernel
    positions = _positions(x.shape[1], seqlen_offsets, cu_seqlens, x.device)
    rotated = _rotate(x, cos[positions], sin[positions], interleaved)
    return x.copy_(rotated) if inplace else rotated


def _positions(length: int, offset: int | Tensor, boundaries: Tensor | None, device: torch.device) -> Tensor:
    """[1 or b, length]: the position of each token in its sequence; the offset may differ between sequences."""
    tokens, offsets = torch.arange(length, device=device), torch.as_tensor(offset, device=device).reshape(-1)
    if boundaries is None:
        return tokens + offsets.unsqueeze(-1)
    sequence = torch.searchsorted(boundaries, tokens, right=True) - 1
    shift = offsets.expand(len(boundaries) - 1)[sequence]
    return (tokens - boundaries[sequence] + shift).unsqueeze(0)


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor, interleaved: bool) -> Tensor:
    """x: [b, l, h, d], cosine and sine: [1 or b, l, r/2]; the features after the first r are unchanged."""
    cosine, sine = cosine.unsqueeze(2), sine.unsqueeze(2)
    rotated, rest = upcast(x[..., : 2 * cosine.shape[-1]]), x[..., 2 * cosine.shape[-1] :]
    first, second = (rotated[..., ::2], rotated[..., 1::2]) if interleaved else rotated.chunk(2, dim=-1)
    pair = first * cosine - second * sine, first * sine + second * cosine
    turned = torch.stack(pair, dim=-1).flatten(-2) if interleaved else torch.cat(pair, dim=-1)
    return torch.cat([turned.to(x.dtype), rest], dim=-1)
