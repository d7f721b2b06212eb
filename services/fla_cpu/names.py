"""The names of flash-linear-attention and their implementations here."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from services.fla_cpu import activations, attention, convolution, decay, delta, index, layers, norms, rotary

F = TypeVar("F", bound=Callable[..., object])


def no_op_decorator(function: F | None = None, **_options: object) -> F | Callable[[F], F]:
    """Replaces decorators that only matter for GPU kernels."""
    return function if function is not None else lambda function: function


def public(module: object) -> dict[str, object]:
    """The public classes, functions and dictionaries that a module defines."""
    name = getattr(module, "__name__", "")
    return {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and (getattr(value, "__module__", None) == name or isinstance(value, dict))
    }


OPERATORS: dict[str, Mapping[str, object]] = {
    "attn": {"parallel_attn": attention.parallel_attn},
    "comba": {"chunk_comba": delta.chunk_comba},
    "delta_rule": dict.fromkeys(
        ("chunk_delta_rule", "fused_chunk_delta_rule", "fused_recurrent_delta_rule"), delta.chunk_delta_rule
    ),
    "forgetting_attn": {"parallel_forgetting_attn": attention.parallel_forgetting_attn},
    "gated_delta_rule": dict.fromkeys(("chunk_gated_delta_rule", "chunk_gdn"), delta.chunk_gated_delta_rule)
    | dict.fromkeys(
        ("fused_recurrent_gated_delta_rule", "fused_recurrent_gdn"), delta.fused_recurrent_gated_delta_rule
    ),
    "gdn2": {"chunk_gdn2": delta.chunk_gdn2},
    "gla": dict.fromkeys(("chunk_gla", "fused_chunk_gla"), decay.chunk_gla)
    | {"fused_recurrent_gla": decay.fused_recurrent_gla},
    "hgrn": {"chunk_hgrn": decay.chunk_hgrn, "fused_recurrent_hgrn": decay.fused_recurrent_hgrn},
    "kda": {"chunk_kda": delta.chunk_kda},
    "linear_attn": dict.fromkeys(("chunk_linear_attn", "fused_chunk_linear_attn"), decay.chunk_linear_attn)
    | {"fused_recurrent_linear_attn": decay.fused_recurrent_linear_attn},
    "retention": dict.fromkeys(("chunk_retention", "fused_chunk_retention"), decay.chunk_retention)
    | {"fused_recurrent_retention": decay.fused_recurrent_retention, "parallel_retention": decay.parallel_retention},
    "rwkv7": {"chunk_rwkv7": delta.chunk_rwkv7},
    "simple_gla": dict.fromkeys(("chunk_simple_gla", "fused_chunk_simple_gla"), decay.chunk_simple_gla)
    | {
        "fused_recurrent_simple_gla": decay.fused_recurrent_simple_gla,
        "parallel_simple_gla": decay.parallel_simple_gla,
    },
    "utils": public(index),
}
"""Operators by subpackage of fla.ops; they are also in fla.ops itself, and in each subpackage's SUBMODULES."""

SUBMODULES = ("chunk", "fused_recurrent", "fused_chunk", "parallel", "index")

NORMS = {
    "GroupNorm": norms.GroupNorm,
    "LayerNorm": norms.LayerNorm,
    "RMSNorm": norms.RMSNorm,
    "layer_norm": norms.layer_norm,
    "rms_norm": norms.rms_norm,
}
GATED_NORMS = {name: value for name, value in public(norms).items() if "gate" in name.lower()}
L2NORMS = {"L2Norm": norms.L2Norm, "l2_norm": norms.l2norm, "l2norm": norms.l2norm}
CONVOLUTIONS = {"ShortConvolution": convolution.ShortConvolution, "causal_conv1d": convolution.causal_conv1d}

FEATURE_MAPS = {name: value for name, value in public(activations).items() if name.endswith("FeatureMap")}
MLP: dict[str, object] = {"GatedMLP": activations.GatedMLP}
ACTIVATIONS = {name: value for name, value in public(activations).items() if name not in FEATURE_MAPS | MLP}

MODULES: dict[str, Mapping[str, object]] = {
    "activations": ACTIVATIONS,
    "causal_conv1d": CONVOLUTIONS,
    "conv": CONVOLUTIONS,
    "convolution": CONVOLUTIONS,
    "feature_map": FEATURE_MAPS,
    "fused_norm_gate": GATED_NORMS,
    "l2norm": L2NORMS,
    "layernorm": NORMS,
    "mlp": MLP,
    "norm": NORMS | GATED_NORMS | L2NORMS,
    "norm.fused_norm_gate": GATED_NORMS,
    "norm.l2norm": L2NORMS,
    "norm.layernorm": NORMS,
    "rotary": public(rotary),
    "token_shift": {"token_shift": convolution.token_shift},
}
"""Names by module of fla.modules."""

TOP: dict[str, object] = {
    name: value
    for name, value in (NORMS | GATED_NORMS | L2NORMS | MLP | public(rotary) | CONVOLUTIONS).items()
    if name[0].isupper()
}
"""The names in fla.modules itself: classes only, as functions have the names of submodules."""

OTHERS: dict[str, dict[str, object]] = {
    "fla.models": {"Cache": layers.Cache},
    "fla.models.utils": {"Cache": layers.Cache, "FLACache": layers.Cache, "LegacyFLACache": layers.Cache},
    "fla.layers": {},
    "fla.layers.utils": {name: value for name, value in public(layers).items() if name[0].islower()},
    "fla.utils": dict.fromkeys(
        ("contiguous", "input_guard", "tensor_cache", "autocast_custom_fwd", "autocast_custom_bwd", "checkpoint"),
        no_op_decorator,
    ),
}
