"""A language model around any token mixer."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.engineer.scales import BF16, FP32
from services.engineer.training.sizes import ModelSizes
from services.fla_cpu.norms import rms_norm

_STANDARD_DEVIATION = 0.02
NOT_COUNTED = -100
"""The target that PyTorch's cross-entropy ignores."""


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm on a GPU; on a CPU, where it is slow, `fla_cpu`'s."""

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cpu:
            return super().forward(x)
        normalised = rms_norm(x, self.weight, eps=self.eps or 0.0)
        assert isinstance(normalised, Tensor)  # noqa: S101 - it is a pair only with `prenorm`
        return normalised


class _GatedUnit(torch.autograd.Function):
    """silu(gate) · up for the halves of one tensor, whose gradients autograd would copy to concatenate them."""

    @staticmethod
    def forward(ctx: Any, halves: Tensor) -> Tensor:
        """[…, 2 · inner] → […, inner]."""
        gate, up = halves.chunk(2, dim=-1)
        activated = F.silu(gate)
        ctx.save_for_backward(halves, activated)
        return activated * up

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """[…, inner] → […, 2 · inner]."""
        halves, activated = ctx.saved_tensors
        gate, up = halves.chunk(2, dim=-1)
        if torch.compiler.is_compiling():  # which cannot follow an `out` that is a part of a tensor, and fuses the copy
            return torch.cat([torch.ops.aten.silu_backward(gradient * up, gate), gradient * activated], dim=-1)
        both = torch.empty_like(halves)
        d_gate, d_up = both.chunk(2, dim=-1)
        torch.mul(gradient, activated, out=d_up)
        d_gate.copy_(torch.ops.aten.silu_backward(gradient * up, gate))
        return both


class _ChunkedLoss(torch.autograd.Function):
    """Mean cross-entropy of hidden states under an output matrix, without storing all logits.

    The gradients are computed with the loss, chunk by chunk, since they need the same logits.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        """Hidden [tokens, width], weight [vocabulary, width], targets [tokens] → the mean over counted targets."""
        d_hidden, d_weight = torch.zeros_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        counted = targets != NOT_COUNTED
        total = hidden.new_zeros((), dtype=torch.float32)
        count = counted.sum().clamp_min(1)
        device = hidden.device.type
        matrix = weight.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else weight
        with torch.autocast(device, enabled=False):
            for start in range(0, len(hidden), chunk):
                rows = hidden[start : start + chunk].to(matrix.dtype)
                labels, mask = targets[start : start + chunk], counted[start : start + chunk, None]
                logits = (rows @ matrix.T).float()
                total += F.cross_entropy(logits, labels, reduction="sum")
                d_logits = torch.softmax(logits, dim=-1)
                d_logits.scatter_add_(1, labels.clamp_min(0)[:, None], torch.full_like(d_logits[:, :1], -1.0))
                d_logits = (d_logits * mask / count).to(matrix.dtype)
                d_hidden[start : start + chunk] = d_logits @ matrix
                d_weight += (d_logits.T @ rows).float()
        ctx.save_for_backward(d_hidden, d_weight.to(weight.dtype))
        return total / count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * gradient, d_weight * gradient, None, None


def chunked_loss(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
    """Mean cross-entropy in nats of targets [batch, length] given hidden states [batch, length, width]."""
    loss: Tensor = _ChunkedLoss.apply(hidden.flatten(0, 1), weight, targets.flatten(), chunk)  # type: ignore[no-untyped-call]
    return loss


class SwiGLU(nn.Module):
    """Gated feed-forward: down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.down(_GatedUnit.apply(self.gate_up(x)))  # type: ignore[no-untyped-call]
        return mixed


class Block(nn.Module):
    """x + mixer(norm(x)), then x + feed-forward(norm(x)); in the layout "parallel", the sum of both and x."""

    def __init__(self, mixer: nn.Module, sizes: ModelSizes, layout: str = "sequential") -> None:
        super().__init__()
        self.parallel = layout == "parallel"
        self.mixer_norm = RMSNorm(sizes.width, eps=1e-6)
        self.mixer = mixer
        self.feed_forward_norm = RMSNorm(sizes.width, eps=1e-6)
        self.feed_forward = SwiGLU(sizes.width, sizes.feed_forward)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """[batch, length, width] → the same shape, and the mixer's auxiliary loss if it returns one."""
        mixed, auxiliary = split_output(self.mixer(self.mixer_norm(x)))
        mixed = mixed.to(x.dtype) if mixed.dtype == torch.float64 else mixed  # of programs that compute in it
        if self.parallel:
            return x + mixed + self.feed_forward(self.feed_forward_norm(x)), auxiliary
        x = x + mixed
        return x + self.feed_forward(self.feed_forward_norm(x)), auxiliary


class LanguageModel(nn.Module):
    """Embedding, blocks, final norm and head. `make_mixer(layer)` builds the mixer of each block."""

    def __init__(self, make_mixer: Callable[[int], nn.Module], sizes: ModelSizes, layout: str = "sequential") -> None:
        super().__init__()
        self.loss_chunk = 0
        """Tokens whose logits are in memory at a time, 0 for all."""
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        self.blocks = nn.ModuleList(Block(make_mixer(layer), sizes, layout) for layer in range(sizes.blocks))
        self.norm = RMSNorm(sizes.width, eps=1e-6)
        self.head = nn.Linear(sizes.width, sizes.vocabulary, bias=False)
        weights = [self.embedding.weight, self.head.weight]
        for block in self.blocks:
            assert isinstance(block, Block)  # noqa: S101 - nn.ModuleList has no element type
            weights += [block.feed_forward.gate_up.weight, block.feed_forward.down.weight]
        for weight in weights:
            nn.init.normal_(weight, std=_STANDARD_DEVIATION)
        if sizes.tied:
            self.head.weight = self.embedding.weight

    def hidden(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens [batch, length] → normalised hidden states [batch, length, width] and the sum of auxiliary losses."""
        x, total = self.embedding(tokens), None
        for block in self.blocks:
            x, auxiliary = block(x)
            if auxiliary is not None:
                total = auxiliary if total is None else total + auxiliary
        return self.norm(x), total

    def forward(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean cross-entropy in nats per token of targets [batch, length], and separately the auxiliary losses."""
        hidden, auxiliary = self.hidden(tokens)
        if self.loss_chunk:
            return chunked_loss(hidden, self.head.weight, targets, self.loss_chunk), auxiliary
        logits = self.head(hidden).float()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), auxiliary


def split_output(output: object) -> tuple[Tensor, Tensor | None]:
    """The output of a mixer, and its auxiliary loss if the second output is a single number."""
    if isinstance(output, Tensor):
        return output, None
    if not isinstance(output, tuple | list) or not output or not isinstance(output[0], Tensor):
        raise TypeError("The mixer's forward must return a tensor or a tuple that begins with one.")
    second = output[1] if len(output) > 1 else None
    return output[0], second if isinstance(second, Tensor) and second.numel() == 1 else None


def cast_floats(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Casts floating-point and complex parameters and buffers in place; `module.to` would drop imaginary parts."""

    def cast(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(dtype.to_complex())
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    module._apply(cast)  # type: ignore[no-untyped-call]
    return module


def parameter_count(model: nn.Module) -> int:
    """All parameters of a model, tied ones once, complex ones as two numbers."""
    return sum(parameter.numel() * (2 if parameter.is_complex() else 1) for parameter in model.parameters())


def autocast(device: str, precision: str) -> torch.autocast:
    """The context for forward passes: bfloat16 autocast, or float32. Raises ValueError for other precisions."""
    if precision not in (BF16, FP32):
        raise ValueError(f"Precision {precision!r} cannot be trained in: use {BF16} or {FP32}.")
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == BF16)
