"""The names of flash-linear-attention, and some of transformers, and their implementations here."""

import logging
import re
import typing
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import TypeVar

from services.fla_cpu import (
    attention,
    convolution,
    decay,
    delta,
    delta_variants,
    features,
    gates,
    layers,
    norms,
    shapes,
)

F = TypeVar("F", bound=Callable[..., object])


def no_op_decorator(function: F | None = None, **_options: object) -> F | Callable[[F], F]:
    """Replaces compilers and decorators that only matter for GPUs, as a call or as a decorator, also with options."""
    return function if function is not None else lambda function: function


class Logger(logging.LoggerAdapter[logging.Logger]):
    """A logger as of transformers.utils.logging."""

    def warning_once(self, message: str, *arguments: object) -> None:
        """Log a hint that transformers shows once, below the level of warnings."""
        self.debug(message, *arguments)


def get_logger(name: str | None = None) -> Logger:
    return Logger(logging.getLogger(name))


def public(module: object) -> dict[str, object]:
    """The public classes, functions (partial ones, too) and dictionaries that a module defines."""
    name = getattr(module, "__name__", "")
    return {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and (getattr(value, "__module__", None) == name or isinstance(value, dict | partial))
    }


_PARTS = (attention, convolution, decay, delta, delta_variants, features, gates, layers, norms)
_DEFINED = {name: value for part in _PARTS for name, value in public(part).items()}


def named(names: str) -> dict[str, object]:
    """The parts of these names; a fused form of an operator that is not defined is the chunked one."""
    chunked = {name: re.sub("^fused_(chunk|recurrent)_", "chunk_", name) for name in names.split()}
    return {name: _DEFINED[name if name in _DEFINED else form] for name, form in chunked.items()}


DPLR = named("chunk_dplr_delta_rule fused_recurrent_dplr_delta_rule")
IPLR = named("chunk_iplr_delta_rule fused_recurrent_iplr_delta_rule")

OPERATORS: dict[str, Mapping[str, object]] = {
    "abc": named("chunk_abc"),
    "attn": named("parallel_attn"),
    "based": named("fused_chunk_based parallel_based"),
    "comba": named("chunk_comba fused_recurrent_comba"),
    "delta_rule": named("chunk_delta_rule fused_chunk_delta_rule fused_recurrent_delta_rule"),
    "forgetting_attn": named("parallel_forgetting_attn"),
    "gated_delta_product": named("chunk_gated_delta_product"),
    "gated_delta_rule": named("chunk_gated_delta_rule chunk_gdn fused_recurrent_gated_delta_rule fused_recurrent_gdn"),
    "gdn2": named("chunk_gdn2 fused_recurrent_gdn2"),
    "generalized_delta_rule": DPLR | IPLR,
    "gla": named("chunk_gla fused_chunk_gla fused_recurrent_gla"),
    "gsa": named("chunk_gsa fused_recurrent_gsa"),
    "hgrn": named("chunk_hgrn fused_recurrent_hgrn"),
    "kda": named("chunk_kda fused_recurrent_kda"),
    "lightnet": named("chunk_lightnet fused_recurrent_lightnet"),
    "linear_attn": named("chunk_linear_attn fused_chunk_linear_attn fused_recurrent_linear_attn"),
    "rebased": named("parallel_rebased"),
    "retention": named("chunk_retention fused_chunk_retention fused_recurrent_retention parallel_retention"),
    "rwkv6": named("chunk_rwkv6 fused_recurrent_rwkv6"),
    "rwkv7": named("chunk_rwkv7 fused_mul_recurrent_rwkv7 fused_recurrent_rwkv7"),
    "simple_gla": named("chunk_simple_gla fused_chunk_simple_gla fused_recurrent_simple_gla parallel_simple_gla"),
    "utils": {name: value for name, value in public(shapes).items() if name.startswith("prepare_")},
}
"""Operators by subpackage of fla.ops; they are also in fla.ops itself, and in each subpackage's submodules."""

_SUBMODULES = ("", ".chunk", ".fused_recurrent", ".fused_chunk", ".parallel", ".index")

NORMS = {name: value for name, value in public(norms).items() if "orm" in name and "l2" not in name.lower()}
del NORMS["Norm"]
LAYERNORM_GATED = named("LayerNormGated RMSNormGated layernorm_fn rmsnorm_fn")
GATED_NORMS: dict[str, object] = {
    name: value
    for name, value in public(gates).items()
    if "norm" in name.lower() and "gate" in name.lower() and name not in LAYERNORM_GATED
}
L2NORMS = named("L2Norm l2_norm l2norm")
CONVOLUTIONS = named("ShortConvolution causal_conv1d causal_conv1d_update")
ROTARY = named("RotaryEmbedding rotary_embedding")

FEATURE_MAPS = {name: value for name, value in public(features).items() if name.endswith("FeatureMap")}
MLP = named("GatedMLP")
ACTIVATIONS = {name: value for name, value in public(gates).items() if name not in GATED_NORMS | LAYERNORM_GATED | MLP}

MODULES: dict[str, Mapping[str, object]] = {
    "activations": ACTIVATIONS,
    "causal_conv1d": CONVOLUTIONS,
    "conv": CONVOLUTIONS,
    "convolution": CONVOLUTIONS,
    "feature_map": FEATURE_MAPS,
    "fused_norm_gate": GATED_NORMS,
    "l2norm": L2NORMS,
    "layernorm": NORMS,
    "layernorm_gated": LAYERNORM_GATED,
    "mlp": MLP,
    "norm": NORMS | GATED_NORMS | LAYERNORM_GATED | L2NORMS,
    "norm.fused_norm_gate": GATED_NORMS,
    "norm.l2norm": L2NORMS,
    "norm.layernorm": NORMS,
    "norm.layernorm_gated": LAYERNORM_GATED,
    "rotary": ROTARY,
    "token_shift": named("token_shift"),
}
"""Names by module of fla.modules."""

TOP: dict[str, object] = {
    name: value
    for name, value in (NORMS | GATED_NORMS | L2NORMS | MLP | ROTARY | CONVOLUTIONS).items()
    if name[0].isupper()
}
"""The names in fla.modules itself: classes only, as functions have the names of submodules."""

RWKV7 = {
    "channel_mixing": "channel_mixing_rwkv7",
    "fused_addcmul": "fused_addcmul_rwkv7",
    "fused_k_update": "fused_k_rwkv7",
    "gate_output_correction": "gate_output_correction",
}
"""The names of RWKV-7's element-wise functions by module of fla.ops.rwkv7."""

FLA: dict[str, Mapping[str, object]] = {
    "fla": {},
    "fla.ops": {name: operator for operators in OPERATORS.values() for name, operator in operators.items()},
    **{f"fla.ops.{package}{module}": OPERATORS[package] for package in OPERATORS for module in _SUBMODULES},
    "fla.modules": TOP,
    **{f"fla.modules.{module}": names for module, names in MODULES.items()},
    "fla.ops.generalized_delta_rule.dplr": DPLR,
    "fla.ops.generalized_delta_rule.iplr": IPLR,
    "fla.ops.attn.decoding": named("attn_decoding_one_step"),
    "fla.ops.gsa.gate": named("fused_additive_gate"),
    "fla.ops.kda.gate": named("fused_kda_gate"),
    **{f"fla.ops.rwkv7.{module}": named(name) for module, name in RWKV7.items()},
    "fla.models": {"Cache": layers.Cache},
    "fla.models.cache_utils": {"Cache": layers.Cache},
    "fla.models.utils": {"Cache": layers.Cache, "FLACache": layers.Cache, "LegacyFLACache": layers.Cache},
    "fla.layers": {},
    "fla.layers.rwkv6": named("DDLerpLinear LerpLinear LoRA"),
    "fla.layers.utils": {
        name: value for name, value in public(layers).items() if name[0].islower() and name not in RWKV7.values()
    },
    "fla.utils": dict.fromkeys(
        ("contiguous", "input_guard", "tensor_cache", "autocast_custom_fwd", "autocast_custom_bwd", "checkpoint"),
        no_op_decorator,
    ),
}
"""The names of each module of fla; a package precedes its modules."""

TRANSFORMERS: dict[str, Mapping[str, object]] = {
    "transformers": {},
    "transformers.activations": {"ACT2FN": gates.ACT2FN},
    "transformers.cache_utils": {"Cache": layers.Cache},
    "transformers.processing_utils": {"Unpack": typing.Unpack},
    "transformers.utils": {"logging": SimpleNamespace(get_logger=get_logger)},
}
"""The names of transformers that fla's layers use."""


def modules(names: Mapping[str, Mapping[str, object]], kind: type[ModuleType] = ModuleType) -> dict[str, ModuleType]:
    """Modules with these names, each an attribute of its package unless that has a part of the name."""
    made: dict[str, ModuleType] = {}
    for name, parts in names.items():
        module = made[name] = kind(name)
        vars(module).update(parts)
        package, _, child = name.rpartition(".")
        if package and child not in vars(made[package]):
            setattr(made[package], child, module)
    return made
