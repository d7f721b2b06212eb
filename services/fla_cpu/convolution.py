"""Short causal depthwise convolution in float32, as in fla's kernel, and the token shift."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from services.fla_cpu.shapes import per_sequence

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
    **_options: object,
) -> tuple[Tensor, Tensor | None]:
    """y_t = activation(Σ_j w_j x_{t−j} + bias) + residual; x: [b, l, d], weight: [d, w] with the last tap for x_t.

    initial_state: [n, d, w], the latest inputs of each sequence, oldest first → (y [b, l, d], the final state).
    """
    del backend  # there is a single one
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; choose silu, swish or None")
    taps, dtype = weight.shape[1], torch.promote_types(torch.float32, x.dtype)

    def convolve(part: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        history = 0 if before is None else taps
        if before is not None:
            part = torch.cat([before.to(x.dtype).transpose(1, 2)[:, -taps:], part], dim=1)
        output = _Taps.apply(part.to(dtype), weight.to(dtype), history)  # type: ignore[no-untyped-call]
        output = output if bias is None else output + bias.to(dtype)
        latest = F.pad(part[:, -taps:], (0, 0, max(0, taps - part.shape[1]), 0)).transpose(1, 2)
        return output if activation is None else F.silu(output), latest

    with torch.autocast(x.device.type, enabled=False):
        output, state = per_sequence(convolve, [x], initial_state, cu_seqlens)
    output = output.to(x.dtype) if residual is None else output.to(x.dtype) + residual
    return output, state.contiguous() if output_final_state else None


def causal_conv1d_update(
    x: Tensor,
    cache: Tensor,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """`causal_conv1d` of one token of each sequence; x: [n, d], [n, 1, d] or [1, n, d]. Changes the cache in place."""
    if weight is None:
        raise ValueError("causal_conv1d_update needs the weight [d, w]")
    token = x.reshape(-1, 1, x.shape[-1])
    rest = None if residual is None else residual.reshape(token.shape)
    y, state = causal_conv1d(token, weight, bias, rest, cache, True, activation)
    with torch.no_grad():
        cache.copy_(state)  # type: ignore[arg-type]
    return y.reshape(x.shape), cache


class _Taps(torch.autograd.Function):
    """y_t = Σ_j w_j x_{t−j} with one multiplication per tap, which takes a fifth of the time of a grouped convolution.

    There is no second derivative, as in fla's kernel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, history: int) -> Tensor:
        """x: [b, history + l, d], weight: [d, w] with the last tap for x_t → [b, l, d]."""
        taps = weight.t().contiguous()  # strided taps are four times slower
        ctx.save_for_backward(x, taps)
        ctx.history = history
        output = x * taps[-1]
        for back in range(1, min(len(taps), x.shape[1])):
            output[:, back:].addcmul_(x[:, :-back], taps[-1 - back])
        return output[:, ctx.history :]

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator, unused-ignore]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, taps = ctx.saved_tensors
        if ctx.history:
            gradient = F.pad(gradient, (0, 0, ctx.history, 0))
        d_x, d_taps = gradient * taps[-1], torch.zeros_like(taps)
        d_taps[-1] = (gradient * x).sum((0, 1))
        for back in range(1, min(len(taps), x.shape[1])):
            d_x[:, :-back].addcmul_(gradient[:, back:], taps[-1 - back])
            d_taps[-1 - back] = (gradient[:, back:] * x[:, :-back]).sum((0, 1))
        return d_x, d_taps.t(), None


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
        **_options: object,
    ) -> None:
        options = {"padding": kernel_size - 1, "groups": hidden_size, "bias": bias, "device": device, "dtype": dtype}
        super().__init__(hidden_size, hidden_size, kernel_size, **options)  # type: ignore[arg-type]
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; choose silu, swish or None")
        self.hidden_size = hidden_size
        self.activation = activation
        self.backend = backend or "triton"  # fla's default, which layers pass on; there is a single one here

    @property
    def state_size(self) -> int:
        """The size of the state of each sequence."""
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
        **_options: object,
    ) -> tuple[Tensor, Tensor | None]:
        """x: [b, l, hidden]; cache: [b, hidden, kernel], the latest inputs, oldest first → (y, cache or None).

        Decoding of single tokens without gradients updates the cache in place, as in fla's kernel.
        """
        del chunk_indices  # for packed sequences on GPUs
        if mask is not None and cu_seqlens is not None:
            raise ValueError("mask and cu_seqlens exclude each other: packed sequences have no padding")
        if mask is not None:
            x = x * mask.unsqueeze(-1).to(x.dtype)
        weight, keep_state = self.weight.squeeze(1), output_final_state or cache is not None
        y, state = causal_conv1d(
            x, weight, self.bias, residual, cache, keep_state, self.activation, None, cu_seqlens
        )  # fmt: skip
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
        """`forward` for one token of each sequence."""
        return self.forward(x, residual, None, cache, output_final_state, cu_seqlens)


def token_shift(
    x: Tensor,
    cu_seqlens: Tensor | None = None,
    cache: Tensor | None = None,
    output_cache: bool = False,
    **_options: object,
) -> Tensor | tuple[Tensor, Tensor]:
    """x_{t−1} − x_t, [b, l, d] → [b, l, d]; the token before the first is zero, or the `cache` [n, d] of each sequence.

    With `output_cache` also the last token of each sequence, [n, 1, d]; of an empty one, the token before its first.
    """
    starts, ends = torch.zeros(1, dtype=torch.long, device=x.device), torch.full((1,), x.shape[1] - 1, device=x.device)
    if cu_seqlens is not None:
        starts, ends = cu_seqlens[:-1].long(), cu_seqlens[1:].long() - 1
    shape, some = (x.shape[0], len(starts), x.shape[2]), starts <= ends  # the sequences that are not empty
    before = x.new_zeros(shape) if cache is None else cache.reshape(shape).to(x.dtype)
    shifted = torch.cat([before[:, :1], x[:, :-1]], dim=1)
    if cu_seqlens is not None:
        shifted = shifted.index_copy(1, starts[some], before[:, some])
    delta = shifted - x
    return (delta, torch.where(some[:, None], x[:, ends], before).reshape(-1, 1, x.shape[2])) if output_cache else delta
