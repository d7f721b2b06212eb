"""Short causal convolution, one filter per channel, computed in float32 as fla's kernel does; the step back in time."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = (None, "silu", "swish")


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool | None = False,
    activation: str | None = None,
    backend: str | None = None,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> tuple[Tensor, Tensor | None]:
    """y_t = activation(Σ_j w_j x_{t−j} + bias) + residual; x: [b, l, d], weight: [d, w], the last tap on x_t.

    initial_state: [n, d, w], the latest inputs of each sequence, oldest first → (y [b, l, d], the next such state).
    """
    del backend, options  # there is one way to compute it here
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; choose silu, swish or None")
    edges = [(0, x.shape[1])] if cu_seqlens is None else list(pairwise(cu_seqlens.tolist()))
    outputs, states = [], []
    for place, (start, end) in enumerate(edges):
        before = initial_state if initial_state is None or cu_seqlens is None else initial_state[place : place + 1]
        padded = _with_history(x[:, start:end], before, weight.shape[1])
        outputs.append(_filtered(padded, weight, bias, activation))
        states.append(padded[..., -weight.shape[1] :])
    output = torch.cat(outputs, dim=1).to(x.dtype)
    output = output if residual is None else output + residual
    return output, torch.cat(states, dim=0).contiguous() if output_final_state else None


def _with_history(x: Tensor, before: Tensor | None, taps: int) -> Tensor:
    """[b, l, d] → [b, d, taps + l]."""
    channels = x.transpose(1, 2)
    if before is None:
        return F.pad(channels, (taps, 0))
    return torch.cat([before.to(x.dtype), channels], dim=-1)


def _filtered(padded: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    with torch.autocast(padded.device.type, enabled=False):
        kind = torch.promote_types(torch.float32, padded.dtype)
        kernel, offset = weight.unsqueeze(1).to(kind), None if bias is None else bias.to(kind)
        output = F.conv1d(padded[..., 1:].to(kind), kernel, offset, groups=len(weight)).transpose(1, 2)
        return output if activation is None else F.silu(output)


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
            hidden_size,
            hidden_size,
            kernel_size,
            padding=kernel_size - 1,
            groups=hidden_size,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; choose silu, swish or None")
        self.hidden_size = hidden_size
        self.activation = activation

    @property
    def state_size(self) -> int:
        """Numbers kept for each sequence."""
        return self.hidden_size * self.kernel_size[0]

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Tensor | None = None,
        output_final_state: bool = False,
        cu_seqlens: Tensor | None = None,
        chunk_indices: Tensor | None = None,
        **options: object,
    ) -> tuple[Tensor, Tensor | None]:
        """x: [b, l, hidden]; cache: [b, hidden, kernel], the latest inputs, oldest first → (y, cache or None).

        One token without gradients changes the cache in place, as fla's decoding kernel does.
        """
        del chunk_indices, options  # for packed sequences on GPUs
        if mask is not None and cu_seqlens is not None:
            raise ValueError("mask and cu_seqlens exclude each other: packed sequences have no padding")
        if mask is not None:
            x = x * mask.unsqueeze(-1).to(x.dtype)
        y, state = causal_conv1d(
            x, self.weight.squeeze(1), self.bias, residual, cache, True, self.activation, None, cu_seqlens
        )
        decoding = not torch.is_grad_enabled() and state is not None and x.shape[0] * x.shape[1] == len(state)
        if cache is not None and state is not None and decoding:
            state = cache.copy_(state)
        return y, state if output_final_state else None

    def step(
        self,
        x: Tensor,
        residual: Tensor | None,
        cache: Tensor | None,
        output_final_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """One token of each sequence, as `forward`."""
        return self.forward(x, residual, None, cache, output_final_state, cu_seqlens)


def token_shift(
    x: Tensor,
    cu_seqlens: Tensor | None = None,
    cache: Tensor | None = None,
    output_cache: bool = False,
    **options: object,
) -> Tensor | tuple[Tensor, Tensor]:
    """[b, l, d] → [b, l, d]; before the first token of a sequence lies zero, or the `cache` [b, d]."""
    del options
    before = torch.zeros_like(x[:, :1]) if cache is None else cache.reshape(x.shape[0], 1, -1).to(x.dtype)
    shifted = torch.cat([before, x[:, :-1]], dim=1)
    if cu_seqlens is not None:
        first = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
        first[cu_seqlens[:-1]] = True
        shifted = shifted.masked_fill(first[None, :, None], 0.0)
    delta = shifted - x
    return (delta, x[:, -1:]) if output_cache else delta
