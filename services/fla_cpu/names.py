"""Which of our parts stands under which name of flash-linear-attention."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from services.fla_cpu import cache, padding
from services.fla_cpu.modules import (
    activations,
    convolution,
    feature_map,
    gated_norm,
    l2norm,
    layernorm,
    mlp,
    rotary,
    token_shift,
)
from services.fla_cpu.ops import attention, decay, delta, gated_delta, hgrn, index, linear

F = TypeVar("F", bound=Callable[..., object])


def unchanged(function: F | None = None, **_options: object) -> F | Callable[[F], F]:
    """Stands for decorators that only matter to GPU kernels."""
    return function if function is not None else lambda one: one


def public(module: object) -> dict[str, object]:
    """The classes, functions and tables that a module of ours defines."""
    name = getattr(module, "__name__", "")
    return {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and (getattr(value, "__module__", None) == name or isinstance(value, dict))
    }


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
    "utils": public(index),
}
"""By the sub-package of fla.ops; each function is also found in fla.ops and in `<sub-package>.<chunk, naive …>`."""

SUBMODULES = ("chunk", "fused_recurrent", "fused_chunk", "parallel", "index")

NORMS = {
    "GroupNorm": layernorm.GroupNorm,
    "LayerNorm": layernorm.LayerNorm,
    "RMSNorm": layernorm.RMSNorm,
    "layer_norm": layernorm.layer_norm,
    "rms_norm": layernorm.rms_norm,
}
GATED_NORMS = {name: value for name, value in public(gated_norm).items() if not name.isupper()}
L2NORMS = {"L2Norm": l2norm.L2Norm, "l2_norm": l2norm.l2norm, "l2norm": l2norm.l2norm}
CONVOLUTIONS = {"ShortConvolution": convolution.ShortConvolution, "causal_conv1d": convolution.causal_conv1d}

MODULES: dict[str, Mapping[str, object]] = {
    "activations": public(activations),
    "causal_conv1d": CONVOLUTIONS,
    "conv": CONVOLUTIONS,
    "convolution": CONVOLUTIONS,
    "feature_map": public(feature_map),
    "fused_norm_gate": GATED_NORMS,
    "l2norm": L2NORMS,
    "layernorm": NORMS,
    "mlp": public(mlp),
    "norm": NORMS | GATED_NORMS | L2NORMS,
    "norm.fused_norm_gate": GATED_NORMS,
    "norm.l2norm": L2NORMS,
    "norm.layernorm": NORMS,
    "rotary": public(rotary),
    "token_shift": public(token_shift),
}
"""By the module of fla.modules."""

TOP: dict[str, object] = {
    name: value
    for name, value in (NORMS | GATED_NORMS | L2NORMS | public(mlp) | public(rotary) | CONVOLUTIONS).items()
    if name[0].isupper()
}
"""What `from fla.modules import …` finds: classes, as functions stand in modules of the same names."""

OTHERS: dict[str, dict[str, object]] = {
    "fla.models": {"Cache": cache.Cache},
    "fla.models.utils": {"Cache": cache.Cache, "FLACache": cache.Cache, "LegacyFLACache": cache.Cache},
    "fla.layers": {},
    "fla.layers.utils": public(padding),
    "fla.utils": dict.fromkeys(
        ("contiguous", "input_guard", "tensor_cache", "autocast_custom_fwd", "autocast_custom_bwd", "checkpoint"),
        unchanged,
    ),
}
