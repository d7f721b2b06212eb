"""Rotary position embedding (RoFormer, arXiv:2104.09864)."""

import torch
from torch import Tensor, nn


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
        **options: object,
    ) -> tuple[Tensor, Tensor]:
        """Rotated q and k: [b, l, h, d]; `seqlen_offset` is the position of the first token."""
        del max_seqlen, options
        positions = torch.arange(q.shape[1], device=q.device, dtype=torch.float32)
        if cu_seqlens is not None:
            starts = cu_seqlens[
                torch.searchsorted(cu_seqlens, torch.arange(q.shape[1], device=q.device), right=True) - 1
            ]
            positions = positions - starts
        offset = torch.as_tensor(seqlen_offset, device=q.device, dtype=torch.float32).reshape(-1, 1)
        angles = (offset + positions).unsqueeze(-1) * self.inv_freq
        return self._rotate(q, angles), self._rotate(k, angles)

    def _rotate(self, x: Tensor, angles: Tensor) -> Tensor:
        cosine, sine = angles.cos().unsqueeze(2), angles.sin().unsqueeze(2)
        rotated, rest = x[..., : self.dim], x[..., self.dim :]
        rotated = rotated if x.dtype == torch.float64 else rotated.float()
        if self.interleaved:
            first, second = rotated[..., ::2], rotated[..., 1::2]
            pair = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
            return torch.cat([pair.flatten(-2).to(x.dtype), rest], dim=-1)
        first, second = rotated.chunk(2, dim=-1)
        both = torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
        return torch.cat([both.to(x.dtype), rest], dim=-1)
