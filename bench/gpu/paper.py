"""The expected cost of a training on an H100, by counted operations."""

import asyncio
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, replace
from multiprocessing import get_context
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.gpu import PEAK_FLOPS, VOCABULARY, Bench, Result
from services.domain import zoo
from services.engineer.program import prepare_child
from services.engineer.scales import BF16, Scale, load_scale
from services.engineer.training.child import build_model, flops_per_token
from services.engineer.training.model import autocast, parameter_count
from services.engineer.training.sizes import model_sizes

BANDWIDTH = {"H100": 3.35e12}
"""Memory bandwidth in bytes per second, from the same source."""
LAUNCH_SECONDS = 5e-6
"""Assumed processor time to launch a kernel, which `throughput` tests."""
CHUNK = 64
"""Tokens per chunk of fla's kernels."""


async def paper_part(bench: Bench) -> Result:
    """The expected cost of an explore and a verify training on an H100: arithmetic, memory traffic, launches, memory.

    Counted on the CPU over short rows of the root's model, with the loss in chunks. One kernel of fla replaces many
    operations of our PyTorch versions, so traffic, launches and saved activations are upper bounds.
    """
    result: Result = {
        "left_out": [] if bench.gpu else ["operations of Triton kernels, which are not counted"],
        "ok": True,
    }
    for stage in ("explore", "verify"):
        scale = load_scale(stage)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            counted = await asyncio.get_running_loop().run_in_executor(pool, _counted, stage)
        micro_tokens, passes = scale.micro_batch * scale.context, scale.batch // scale.micro_batch * scale.steps
        logits = 4 * VOCABULARY * micro_tokens
        chunk = 4 * VOCABULARY * scale.loss_chunk
        memory = 16 * counted.parameters + counted.saved_per_token * micro_tokens + chunk
        result[stage] = {
            "parameters": counted.parameters,
            "flops_per_token": counted.flops_per_token,
            "gpu_hours_at_share_of_peak": {
                f"{share:.0%}": round(counted.flops_per_token * scale.tokens / (share * PEAK_FLOPS["H100"]) / 3600, 2)
                for share in (0.05, 0.1, 0.2, 0.4)
            },
            "hours_of_memory_traffic_unfused": round(
                counted.bytes_per_token * scale.tokens / BANDWIDTH["H100"] / 3600, 2
            ),
            "hours_of_launches_uncompiled": round(counted.launches * passes * LAUNCH_SECONDS / 3600, 2),
            "launches_per_micro_batch": counted.launches,
            "logits_bytes": logits,
            "logits_bytes_in_chunks": chunk,
            "memory_bytes": memory,
            "trainings_in_80_GB": int(80e9 // memory),
        }
    return result


@dataclass(frozen=True)
class _Counts:
    """Counts of one forward and backward pass of the root."""

    parameters: int
    flops_per_token: float
    launches: int
    bytes_per_token: float
    saved_per_token: float


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, except views, and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not any(value.alias_info and not value.alias_info.is_write for value in func._schema.returns):
            self.launches += 1
            tensors = [tensor for tensor in tree_leaves((args, kwargs, result)) if isinstance(tensor, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def _counted(stage: str) -> _Counts:
    """Counts from models of one and of two blocks, extrapolated to all blocks."""
    prepare_child()
    scale = load_scale(stage)
    single, double = (_counts_of(replace(scale, blocks=blocks)) for blocks in (1, 2))
    return _Counts(
        *(int(x + (scale.blocks - 1) * (y - x)) for x, y in zip(astuple(single), astuple(double), strict=True))
    )


def _counts_of(scale: Scale) -> _Counts:
    """Counts per token, from the difference between passes over one and over two chunks."""
    sizes, program = model_sizes(scale, VOCABULARY), zoo.baselines()[0].program
    flops = flops_per_token(program, sizes, 2 * CHUNK, "fp32") or 0.0
    model = build_model(program, sizes, seed=0, device="cpu")
    model.loss_chunk = scale.loss_chunk
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    counts = []
    for length in (CHUNK, 2 * CHUNK):
        saved: dict[int, int] = {}

        def pack(tensor: torch.Tensor, saved: dict[int, int] = saved) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        rows = torch.zeros(1, length + 1, dtype=torch.int64)
        with _Operations() as operations, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            with autocast("cpu", BF16):
                loss, _ = model(rows[:, :-1], rows[:, 1:])
            torch.autograd.backward(loss)
        model.zero_grad(set_to_none=True)
        counts.append((operations.launches, operations.bytes, sum(saved.values())))
    (launches, *first), (_, *second) = counts
    moved, activations = ((after - before) / CHUNK for before, after in zip(first, second, strict=True))
    return _Counts(parameter_count(model), flops, launches, moved, activations)
