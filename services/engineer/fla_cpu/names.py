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
from services.engineer.fla_cpu.ops import attention, decay, delta, gated_delta, hgrn, linear

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


OPERATORS: dict[str, Mapping[str, object]] = {
    "attn": {"parallel_attn": attention.parallel_attn},
    "comba": {"chunk_comba": gated_delta.chunk_comba},
    "delta_rule": dict.fromkeys(
        ("chunk_delta_rule", "fused_chunk_delta_rule", "fused_recurrent_delta_rule"), delta.chunk_delta_rule
    ),
    "forgetting_attn": {"parallel_forgetting_attn": attention.parallel_forgetting_attn},
    "gated_delta_rule": dict.fromkeys(("chunk_gated_delta_rule", "chunk_gdn"), gated_delta.chunk_gated_delta_rule)
    | dict.fromkeys(
        ("fused_recurrent_gated_delta_rule", "fused_recurrent_gdn"), gated_delta.fused_recurrent_gated_delta_rule
    ),
    "gla": dict.fromkeys(("chunk_gla", "fused_chunk_gla"), decay.chunk_gla)
    | {"fused_recurrent_gla": decay.fused_recurrent_gla},
    "hgrn": {"chunk_hgrn": hgrn.chunk_hgrn, "fused_recurrent_hgrn": hgrn.fused_recurrent_hgrn},
    "kda": {"chunk_kda": gated_delta.chunk_kda},
    "linear_attn": dict.fromkeys(("chunk_linear_attn", "fused_chunk_linear_attn"), linear.chunk_linear_attn)
    | {"fused_recurrent_linear_attn": linear.fused_recurrent_linear_attn},
    "retention": dict.fromkeys(("chunk_retention", "fused_chunk_retention"), linear.chunk_retention)
    | {
        "fused_recurrent_retention": linear.fused_recurrent_retention,
        "parallel_retention": linear.parallel_retention,
    },
    "simple_gla": dict.fromkeys(("chunk_simple_gla", "fused_chunk_simple_gla"), decay.chunk_simple_gla)
    | {
        "fused_recurrent_simple_gla": decay.fused_recurrent_simple_gla,
        "parallel_simple_gla": decay.parallel_simple_gla,
    },
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
