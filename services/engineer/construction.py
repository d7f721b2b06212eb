"""Finds a program's mixer class and constructs it. Exported packages contain this module.

- The mixer is the class DeltaNet if there is one, else the nn.Module whose forward takes hidden_states. Of several, it
  is one that no other class of the program constructs; of these, the last.
- If the whole model evolves, a constant LAYERS may name the mixer class of each layer, repeated, and a constant BLOCK
  one of LAYOUTS.
- The constructor is called with the usual arguments that its signature names, or with all if it takes **kwargs.
"""

import ast
import inspect
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from functools import lru_cache
from types import ModuleType

import torch
from torch import nn

from services.domain.syntax import parse
from services.engineer.training.sizes import BLOCK, LAYERS, LAYOUTS

PREFERRED = "DeltaNet"
OPTIONS: dict[str, object] = {
    "mode": "chunk",
    "expand_k": 1.0,
    "expand_v": 1.0,
    "use_beta": True,
    "use_gate": False,
    "use_short_conv": True,
    "conv_size": 4,
    "conv_bias": False,
    "allow_neg_eigval": False,
    "norm_eps": 1e-5,
    "qk_activation": "silu",
    "qk_norm": "l2",
}
WIDTHS = ("dim", "model_dim", "n_embd", "n_embed", "embed_dim", "embed_size", "emb_dim", "embedding_dim")
HEADS = ("num_heads", "n_heads", "heads", "num_attention_heads")
KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
CONFIGURATIONS = ("config", "cfg", "args")
LAYER_COUNT = "num_hidden_layers"
VOCABULARY = ("vocab_size", "num_tokens", "n_tokens", "n_vocab", "ntoken")


class ProgramError(Exception):
    """The program cannot be used. The message says why."""


class NoMixer(ProgramError):  # noqa: N818
    """The program defines no token mixer."""


class BadConstructor(ProgramError):  # noqa: N818
    """The mixer requires an unknown argument."""


@dataclass(frozen=True)
class MixerSizes:
    """Features per token, heads, the layer, and all layers, of which published programs make initial values."""

    width: int
    heads: int
    layer: int = 0
    whole_model: bool = False  # the program may choose a mixer for each layer
    layers: int = 2


def mixer_of_layer(module: ModuleType, source: str, sizes: MixerSizes) -> type[nn.Module]:
    """The class to construct for a layer. Raises ProgramError."""
    if not sizes.whole_model or not hasattr(module, LAYERS):
        return find_mixer(module, source)
    names = getattr(module, LAYERS)
    if not isinstance(names, tuple | list) or not names:
        raise ProgramError(f"the program's {LAYERS} must be a tuple of names of its own classes")
    name = names[sizes.layer % len(names)]
    mixer = getattr(module, str(name), None)
    if not isinstance(mixer, type) or not issubclass(mixer, nn.Module):
        raise NoMixer(f"the program's {LAYERS} names {name!r}, which is no nn.Module of its own")
    return mixer


def block_layout(module: ModuleType) -> str:
    """The layout of the blocks that the program asks for, "sequential" by default. Raises ProgramError."""
    layout = getattr(module, BLOCK, LAYOUTS[0])
    if layout not in LAYOUTS:
        raise ProgramError(f"the program's {BLOCK} is {layout!r}; choose one of {', '.join(LAYOUTS)}")
    return str(layout)


def find_mixer(module: ModuleType, source: str) -> type[nn.Module]:
    """The class to construct. Raises NoMixer."""
    own = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    }
    if PREFERRED in own:
        return own[PREFERRED]
    mixers = {name: value for name, value in own.items() if _takes_hidden_states(value)} or own
    if not mixers:
        raise NoMixer("the program defines no nn.Module: define one whose forward takes hidden_states")
    outermost = [name for name in mixers if name not in _constructed(source, frozenset(own))]
    return mixers[(outermost or list(mixers))[-1]]


def construct(mixer: type[nn.Module], sizes: MixerSizes) -> nn.Module:
    """The mixer, constructed with the usual arguments that it accepts. Raises BadConstructor.

    If it rejects an option, such as a mode it does not have, its own defaults are used for all options; if it hands
    **kwargs to a part that rejects them, it gets only what it names; if it widens its features by `expand` and rejects
    its heads, as Mamba-2's layers do, it gets as many times the heads.
    """
    _require_one_input(mixer)
    arguments = _arguments(mixer, sizes)
    try:
        instance: object = mixer(**arguments)
    except (AssertionError, KeyError, NotImplementedError, TypeError, ValueError):
        instance = _constructed_otherwise(mixer, arguments)
        if instance is None:
            raise
    if not isinstance(instance, nn.Module):
        raise BadConstructor(
            f"{mixer.__name__}(...) returned an object of type {type(instance).__name__}, not an nn.Module: "
            "remove its metaclass or __new__"
        )
    _require_own_memory(instance)
    return instance


def _require_one_input(mixer: type[nn.Module]) -> None:
    """Raises BadConstructor unless forward can be called with the hidden states alone."""
    try:
        inspect.signature(mixer.forward, follow_wrapped=False).bind("self", "hidden_states")
    except ValueError:  # it has no readable signature
        return
    except TypeError as error:
        line = getattr(getattr(mixer.forward, "__code__", None), "co_firstlineno", "?")
        raise BadConstructor(
            f"line {line}: forward cannot be called with the hidden states [batch, length, width] alone ({error}): "
            "write forward(self, hidden_states, **kwargs), and compute other inputs from them or give these defaults"
        ) from error


def _require_own_memory(mixer: nn.Module) -> None:
    """Raises BadConstructor if elements of parameters share memory, as an optimizer changes each for itself."""
    owners: dict[int, str] = {}
    for name, parameter in mixer.named_parameters():
        if parameter.is_meta:
            raise BadConstructor(f"the parameter {name} has no values, as it is on the device meta: name no device")
        other = owners.setdefault(parameter.data_ptr(), name) if parameter.numel() else name
        if other != name or torch._debug_has_internal_overlap(parameter) == 1:
            who = f"parameters {other} and {name}" if other != name else f"elements of the parameter {name}"
            raise BadConstructor(
                f"the {who} share memory, so that a step changes them several times: write tensor.clone() of a tensor "
                "that is expanded or used twice; to tie two parameters, assign one to both names"
            )


def _constructed_otherwise(mixer: type[nn.Module], arguments: dict[str, object]) -> object | None:
    parameters = inspect.signature(mixer.__init__).parameters
    plain = {name: value for name, value in arguments.items() if name not in OPTIONS}
    named = {name: value for name, value in arguments.items() if name in parameters}
    others = [plain, named, {name: plain[name] for name in plain if name in named}]
    expand = parameters["expand"].default if "expand" in parameters else None
    if isinstance(expand, int | float):
        heads = {name: int(expand * value) for name, value in named.items() if name in HEADS and isinstance(value, int)}
        others.append(named | heads)
    for other in others:
        if other != arguments:
            with suppress(Exception):  # candidate code may raise anything; the first error is reported
                return mixer(**other)
    return None


def _arguments(kind: type, sizes: MixerSizes, within: tuple[type, ...] = ()) -> dict[str, object]:
    """Arguments for the constructor of a mixer, or of a dataclass that is its configuration. Raises BadConstructor."""
    usual, required_only = usual_arguments(sizes), rare_synonyms(sizes)
    if within:  # a configuration is shared with the whole model
        required_only |= dict.fromkeys(VOCABULARY, 256)
    try:
        parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]  # type: ignore[misc]
    except (TypeError, ValueError) as error:
        raise BadConstructor(f"{kind.__name__}.__init__ has no readable signature: define a plain one") from error
    named_only = _synonyms_in({parameter.name: parameter.default for parameter in parameters}, sizes)
    arguments: dict[str, object] = {}
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        arguments |= usual
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for parameter in parameters:
        if parameter.kind not in keywords:
            continue
        name, default = parameter.name, parameter.default
        required = default is inspect.Parameter.empty
        needed = required or (default is None and name == LAYER_COUNT)
        values = usual | named_only | (required_only if needed else {})
        if name in values:
            integral = isinstance(default, int) and not isinstance(default, bool) and isinstance(values[name], float)
            arguments[name] = type(default)(values[name]) if integral else values[name]
        elif required:
            configuration = _dataclass_of(kind, parameter)
            if configuration is None or configuration in within:
                raise BadConstructor(_unknown_argument(kind, name))
            arguments[name] = configuration(**_arguments(configuration, sizes, (*within, configuration)))
    return arguments


def _synonyms_in(defaults: Mapping[str, object], sizes: MixerSizes) -> dict[str, object]:
    """The synonyms that mean the usual sizes in a signature with these defaults."""
    values = synonyms(sizes)
    heads = [defaults[name] for name in HEADS if defaults.get(name) is not None]
    values |= {name: sizes.heads for name in KEY_VALUE_HEADS if defaults.get(name) in heads}  # as many by default
    widths = [name for name in ("hidden_size", "d_model", *WIDTHS) if defaults.get(name) is not None]
    widths.sort(key=lambda name: isinstance(defaults[name], int))  # what is required is the width
    for name in widths[1:]:
        if defaults[name] != defaults[widths[0]]:
            values.pop(name, None)  # a size of its own, as of an embedding of positions
    return values


def _dataclass_of(kind: type, parameter: inspect.Parameter) -> type | None:
    """The dataclass that annotates a parameter, or the program's only one if a configuration has no annotation."""
    annotation: object = parameter.annotation
    names: dict[str, object] = getattr(kind.__init__, "__globals__", {})  # type: ignore[misc]
    if isinstance(annotation, str):
        annotation = names.get(annotation.strip("'\""))
    elif annotation is inspect.Parameter.empty and parameter.name in CONFIGURATIONS:
        own = [value for value in names.values() if isinstance(value, type) and value.__module__ == kind.__module__]
        candidates = [value for value in own if is_dataclass(value) and not issubclass(value, nn.Module)]
        annotation = candidates[0] if len(candidates) == 1 else None
    return annotation if isinstance(annotation, type) and is_dataclass(annotation) else None


def _unknown_argument(kind: type, name: str) -> str:
    requires = f"{kind.__name__}.__init__ requires {name!r}"
    if name in CONFIGURATIONS:
        return (
            f"{requires}, whose class is not known: annotate it with a dataclass of this program, with hidden_size, "
            "num_heads and defaults, or take the sizes themselves, as in __init__(self, hidden_size, num_heads)"
        )
    if name in VOCABULARY:
        return (
            f"{requires}, so it is a whole language model, but the mixer gets hidden states [batch, length, width]: "
            f"name the class of the mixer {PREFERRED}, or let only its forward take hidden_states"
        )
    return (
        f"{requires}, which is not one of the usual arguments: give it a default, or use the name of a size: "
        "hidden_size, d_model, dim or embed_dim; num_heads or heads; head_dim or dim_head; layer_idx"
    )


def usual_arguments(sizes: MixerSizes) -> dict[str, object]:
    """Constructor arguments of mixers in the style of flash-linear-attention."""
    return {
        "hidden_size": sizes.width,
        "d_model": sizes.width,
        "num_heads": sizes.heads,
        "layer_idx": sizes.layer,
        **OPTIONS,
    }


def synonyms(sizes: MixerSizes) -> dict[str, object]:
    """Alternative argument names, passed only to mixers whose signature names them."""
    values = {
        " ".join(WIDTHS): sizes.width,
        "heads n_head n_heads nhead num_attention_heads": sizes.heads,
        "head_dim dim_head d_head": sizes.width // sizes.heads,
        "layer_id layer_index": sizes.layer,
    }
    return {name: value for names, value in values.items() for name in names.split()}


def rare_synonyms(sizes: MixerSizes) -> dict[str, object]:
    """Names that may mean other sizes too, passed only where the signature gives them no default.

    A stack of layers gets one layer, as it stands in the place of one, and dropout is off.
    """
    names = "hidden_dim input_dim output_dim input_size in_features out_features channels width".split()  # noqa: SIM905
    neutral = {"depth": 1, "n_layer": 1, "n_layers": 1, "num_layers": 1, "dropout": 0.0, "dropout_rate": 0.0}
    return {**dict.fromkeys(names, sizes.width), **neutral, LAYER_COUNT: max(2, sizes.layers, sizes.layer + 1)}


def _takes_hidden_states(kind: type[nn.Module]) -> bool:
    try:
        return "hidden_states" in inspect.signature(kind.forward).parameters
    except (TypeError, ValueError):  # forward is not a function
        return False


@lru_cache(maxsize=16)
def _constructed(source: str, names: frozenset[str]) -> frozenset[str]:
    """Classes of the program that its own classes construct.

    Cached: a check constructs mixers a hundred times, and parsing a program with a long table takes a second.
    """
    return frozenset(
        call.func.id
        for definition in parse(source).body
        if isinstance(definition, ast.ClassDef)
        for call in ast.walk(definition)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in names - {definition.name}
    )
