"""Short causal convolution, one filter per channel."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ShortConvolution(nn.Conv1d):
    """y_t = activation(Σ_j w_j x_{t−j} + bias) over the last `kernel_size` tokens of each channel."""

    def __init__(
        self,
        hidden_size: int,
        kernel_size: int,
        bias: bool = False,
        activation: str | None = "silu",
        backend: str | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        **options: object,
    ) -> None:
        del backend, options  # there is one way to compute it here
        super().__init__(
            hidden_size, hidden_size, kernel_size, groups=hidden_size, bias=bias, device=device, dtype=dtype
        )
        if activation not in (None, "silu", "swish"):
            raise ValueError(f"activation is {activation!r}; choose silu, swish or None")
        self.hidden_size = hidden_size
        self.activation = activation

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Tensor | None = None,
        output_final_state: bool = False,
        cu_seqlens: Tensor | None = None,
        **options: object,
    ) -> tuple[Tensor, Tensor | None]:
        """x: [b, l, hidden]; cache: [b, hidden, kernel], the latest inputs, oldest first → (y, cache or None)."""
        del options
        if mask is not None:
            x = x * mask.unsqueeze(-1).to(x.dtype)
        if cu_seqlens is None:
            output, state = self._whole(x, cache)
        else:
            output, state = self._packed(x, cache, cu_seqlens)
        output = output if residual is None else output + residual
        if output_final_state and cache is not None and cache.shape == state.shape:
            cache.copy_(state)
            state = cache
        return output, state if output_final_state else None

    def _packed(self, x: Tensor, cache: Tensor | None, boundaries: Tensor) -> tuple[Tensor, Tensor]:
        edges = boundaries.tolist()
        parts = [
            self._whole(x[:, start:end], None if cache is None else cache[place : place + 1])
            for place, (start, end) in enumerate(pairwise(edges))
        ]
        return torch.cat([one for one, _ in parts], dim=1), torch.cat([state for _, state in parts], dim=0)

    def _whole(self, x: Tensor, cache: Tensor | None) -> tuple[Tensor, Tensor]:
        taps = self.kernel_size[0]
        channels = x.transpose(1, 2)
        history = channels.new_zeros(*channels.shape[:2], taps) if cache is None else cache.to(x.dtype)
        padded = torch.cat([history, channels], dim=-1)
        output = F.conv1d(padded[..., 1:], self.weight, self.bias, groups=self.hidden_size).transpose(1, 2)
        if self.activation is not None:
            output = F.silu(output)
        return output.to(x.dtype), padded[..., -taps:].detach()
