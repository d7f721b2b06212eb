"""A candidate's program becomes a module: executed, its mixer found, constructed at given sizes.

Guest side: whatever is in the text runs here. Rules for text that others wrote:
- the mixer is the class called DeltaNet if there is one; else the only nn.Module whose forward takes hidden_states; of
  several the one that no other class of the program constructs, else the last;
- where the whole model evolves, a constant LAYERS may name the mixer of each layer, repeated, among the program's own
  classes, and a constant BLOCK one of LAYOUTS;
- its constructor gets those of the usual arguments that its signature names, all of them where it takes **kwargs.
"""

import ast
import hashlib
import inspect
import linecache
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import cast

import einops._torch_specific
import einops.layers.torch  # noqa: F401 - a sealed job opens no file, so that what programs import is loaded before
import torch
import torch.nn.attention.flex_attention
from torch import nn

from services import fla_cpu
from services.domain.syntax import parse

PREFERRED = "DeltaNet"
LAYERS, BLOCK = "LAYERS", "BLOCK"
LAYOUTS = ("sequential", "parallel")


class ProgramError(Exception):
    """The program is not one that this laboratory can use; the message says why in one sentence."""


class NoMixer(ProgramError):  # noqa: N818
    """The program defines no token mixer."""


class BadConstructor(ProgramError):  # noqa: N818
    """The mixer requires an unknown argument."""


@dataclass(frozen=True)
class MixerSizes:
    """What a mixer is built for: features per token, heads, and the index of its layer.

    With `whole_model` the program may name another mixer for each layer.
    """

    width: int
    heads: int
    layer: int = 0
    whole_model: bool = False


def prepare_child(threads: int = 1, device: str = "cpu") -> None:
    """Make a sandboxed child ready for programs that run on `device`.

    On a CPU, beside a GPU or not: our version of fla, whose kernels Triton compiles for GPUs only, and no compilation,
    since importing the compiler takes longer than a check.
    """
    torch.set_num_threads(threads)
    if device == "cpu":
        fla_cpu.install()
        torch.compile = _uncompiled  # type: ignore[assignment]


def load_mixer(source: str, sizes: MixerSizes) -> nn.Module:
    """Execute the program and construct its mixer.

    Raises ProgramError, and whatever the program itself raises.
    """
    module = execute(source)
    return construct(mixer_of_layer(module, source, sizes), sizes)


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


def execute(source: str) -> ModuleType:
    """The program as a module of its own, executed once in a process, as all layers of a model share it.

    It is named by its text, so that tracebacks and compilers find its lines.
    """
    source = source.removeprefix("\ufeff")
    name = f"candidate_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    file = f"<{name}>"
    module.__file__ = file
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    sys.modules[name] = module
    try:
        exec(compile(source, file, "exec"), module.__dict__)  # noqa: S102 - the purpose of this child process
    except BaseException:
        del sys.modules[name]
        raise
    return module


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
    outermost = [name for name in mixers if name not in _constructed(source, set(own))]
    return mixers[(outermost or list(mixers))[-1]]


def construct(mixer: type[nn.Module], sizes: MixerSizes) -> nn.Module:
    """The mixer with the usual arguments that it accepts. Raises BadConstructor naming an unknown one."""
    usual = usual_arguments(sizes)
    known = usual | synonyms(sizes)
    try:
        parameters = list(inspect.signature(mixer.__init__).parameters.values())[1:]
    except (TypeError, ValueError) as error:
        raise BadConstructor(
            f"{mixer.__name__}.__init__ has no signature that can be read: define a plain one"
        ) from error
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {parameter.name: parameter.default for parameter in parameters if parameter.kind in keywords}
    for name, default in named.items():
        if default is inspect.Parameter.empty and name not in known:
            raise BadConstructor(
                f"{mixer.__name__}.__init__ requires {name!r}, which is none of the usual arguments: "
                f"give it a default, or use one of {', '.join(known)}"
            )
    given = {name: value for name, value in usual.items() if takes_all or name in named}
    made: object = mixer(**given, **{name: value for name, value in synonyms(sizes).items() if name in named})
    if not isinstance(made, nn.Module):
        raise BadConstructor(
            f"{mixer.__name__}(...) made no nn.Module but an object of type {type(made).__name__}: "
            "leave out its metaclass or __new__"
        )
    return made


def usual_arguments(sizes: MixerSizes) -> dict[str, object]:
    """What mixers in the style of flash-linear-attention are constructed with."""
    return {
        "hidden_size": sizes.width,
        "d_model": sizes.width,
        "num_heads": sizes.heads,
        "layer_idx": sizes.layer,
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


def synonyms(sizes: MixerSizes) -> dict[str, object]:
    """Other names for the same, given only to mixers that name them."""
    return {
        "dim": sizes.width,
        "embed_dim": sizes.width,
        "n_heads": sizes.heads,
        "head_dim": sizes.width // sizes.heads,
        "layer_id": sizes.layer,
    }


def _takes_hidden_states(kind: type[nn.Module]) -> bool:
    try:
        return "hidden_states" in inspect.signature(kind.forward).parameters
    except (TypeError, ValueError):  # forward is no function
        return False


_EXPLANATIONS = (
    (r"leaf Variable that requires grad is being used in an in-place|view of a leaf Variable",
     "the program changes a parameter or its input in place: compute a new tensor instead"),
    (r"modified by an inplace operation|a view .* is being modified inplace",
     "the program changes a tensor in place that the backward pass still needs: write x = x + y, not x += y"),
    (r"metaclass conflict",
     "a class of the program has a metaclass that does not fit nn.Module's: leave it out"),
    (r"omplex(Float|Double|64|128)|for only complex|autograd only supports .*real",
     "the program computes with complex numbers where real ones are needed: take the real part or the absolute value"),
    (r"/dev/u?random",
     "the program seeds a generator from the machine: draw from torch's own generator, which every run seeds"),
    (r"not compiled with CUDA|No CUDA GPUs",
     "the program asks for a GPU where there is none: take the device from the input, as in device=x.device"),
    (r"PermissionError",
     "the program opens a file, or imports what is not loaded: a program may use torch, einops, fla and plain Python"),
)  # fmt: skip


def explain(error: BaseException) -> str:
    """An error of the program in one sentence: what it means where torch's own words do not say so, then its words."""
    words = f"{type(error).__name__}: {str(error)[:2000]}".rstrip(": ")
    for pattern, meaning in _EXPLANATIONS:
        if re.search(pattern, words):
            return f"{meaning} ({words})"
    return words


def _constructed(source: str, names: set[str]) -> set[str]:
    """Classes of the program that its own classes construct."""
    return {
        call.func.id
        for definition in parse(source).body
        if isinstance(definition, ast.ClassDef)
        for call in ast.walk(definition)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in names - {definition.name}
    }


def _uncompiled(function: object = None, **_options: object) -> object:
    """Stands for torch.compile, as a call or as a decorator with or without options."""
    return function if function is not None else cast("Callable[[object], object]", _uncompiled)
