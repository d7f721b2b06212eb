"""Which of our parts stands under which name of flash-linear-attention."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from services.engineer.fla_cpu import cache, padding
from services.engineer.fla_cpu.modules import (
    activations,
    convolution,
    feature_map,
    l2norm,
    layernorm,
    mlp,
    rotary,
    token_shift,
)
from services.engineer.fla_cpu.ops import attention, decay, delta, hgrn

F = TypeVar("F", bound=Callable[..., object])


def unchanged(function: F | None = None, **_options: object) -> F | Callable[[F], F]:
    """Stands for decorators that only matter to GPU kernels."""
    return function if function is not None else lambda one: one


def prepare_lens(cu_seqlens: Tensor) -> Tensor:
    """Lengths of packed sequences."""
    return cu_seqlens.diff()


def prepare_position_ids(cu_seqlens: Tensor) -> Tensor:
    """The position of every token in its own sequence."""
    return torch.cat([torch.arange(int(one), device=cu_seqlens.device) for one in cu_seqlens.diff()])


_DELTA = dict.fromkeys(("chunk", "fused_recurrent", "fused_chunk"), delta.chunk_delta_rule)
_GATED = dict.fromkeys(("chunk", "fused_recurrent"), delta.chunk_gated_delta_rule)
_SIMPLE = dict.fromkeys(("chunk", "fused_recurrent", "fused_chunk", "parallel"), decay.chunk_simple_gla)
_RETENTION = dict.fromkeys(("chunk", "fused_recurrent", "fused_chunk", "parallel"), decay.chunk_retention)
_LINEAR = dict.fromkeys(("chunk", "fused_recurrent", "fused_chunk"), decay.chunk_linear_attn)
_GLA = {"chunk": decay.chunk_gla, "fused_chunk": decay.chunk_gla, "fused_recurrent": decay.fused_recurrent_gla}

OPERATORS: dict[str, Mapping[str, object]] = {
    "delta_rule": {f"{how}_delta_rule": one for how, one in _DELTA.items()},
    "gated_delta_rule": {f"{how}_gated_delta_rule": one for how, one in _GATED.items()}
    | {f"{how}_gdn": one for how, one in _GATED.items()},
    "gla": {f"{how}_gla": one for how, one in _GLA.items()},
    "simple_gla": {f"{how}_simple_gla": one for how, one in _SIMPLE.items()},
    "retention": {f"{how}_retention": one for how, one in _RETENTION.items()},
    "linear_attn": {f"{how}_linear_attn": one for how, one in _LINEAR.items()},
    "hgrn": {"chunk_hgrn": hgrn.chunk_hgrn, "fused_recurrent_hgrn": hgrn.fused_recurrent_hgrn},
    "attn": {"parallel_attn": attention.parallel_attn},
    "utils": {"prepare_lens": prepare_lens, "prepare_position_ids": prepare_position_ids},
}
"""By the sub-package of fla.ops; each function is also found in fla.ops and in `<sub-package>.<chunk, naive …>`."""

SUBMODULES = ("chunk", "fused_recurrent", "fused_chunk", "parallel", "index")


def public(module: object) -> dict[str, object]:
    """The classes and functions that a module of ours defines, and its upper-case tables."""
    name = getattr(module, "__name__", "")
    return {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and (getattr(value, "__module__", None) == name or key.isupper())
    }


MODULES: dict[str, dict[str, object]] = {
    "activations": public(activations),
    "convolution": public(convolution),
    "causal_conv1d": public(convolution),
    "feature_map": public(feature_map),
    "l2norm": public(l2norm) | {"l2_norm": l2norm.l2_norm},
    "layernorm": public(layernorm),
    "fused_norm_gate": {
        "FusedRMSNormGated": layernorm.FusedRMSNormGated,
        "FusedRMSNormSwishGate": layernorm.FusedRMSNormGated,
    },
    "norm": public(layernorm) | public(l2norm),
    "mlp": public(mlp),
    "rotary": public(rotary),
    "token_shift": public(token_shift),
}
"""By the module of fla.modules."""

TOP = {
    "FusedRMSNormGated": layernorm.FusedRMSNormGated,
    "FusedRMSNormSwishGate": layernorm.FusedRMSNormGated,
    "GatedMLP": mlp.GatedMLP,
    "GroupNorm": layernorm.GroupNorm,
    "L2Norm": l2norm.L2Norm,
    "LayerNorm": layernorm.LayerNorm,
    "RMSNorm": layernorm.RMSNorm,
    "RotaryEmbedding": rotary.RotaryEmbedding,
    "ShortConvolution": convolution.ShortConvolution,
    "token_shift": token_shift.token_shift,
}
"""What `from fla.modules import …` finds."""

OTHERS: dict[str, dict[str, object]] = {
    "fla.models": {"Cache": cache.Cache},
    "fla.models.utils": {"Cache": cache.Cache, "FLACache": cache.Cache},
    "fla.layers": {},
    "fla.layers.utils": public(padding),
    "fla.utils": dict.fromkeys(
        ("contiguous", "input_guard", "tensor_cache", "autocast_custom_fwd", "autocast_custom_bwd", "checkpoint"),
        unchanged,
    ),
}
