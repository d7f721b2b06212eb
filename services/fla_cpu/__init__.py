"""flash-linear-attention's usual parts in plain PyTorch, for machines without a GPU.

`install()` puts them under fla's own names, so that a program which imports fla runs unchanged; where there is a GPU,
fla's Triton kernels are used, and both compute the same to rounding. What a program may use beyond fla, how it is
loaded and how it is judged is the engineer's business, not this room's.
"""

import sys
import typing
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from services.fla_cpu.names import MODULES, OPERATORS, OTHERS, SUBMODULES, TOP

__all__ = ["install"]


class _Part(ModuleType):
    """A module that tells what it has when asked for what it has not."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(_missing(self, name))


class _Refusal:
    """A finder that ends the search for parts of fla which are not here, before the installed fla is found.

    `from fla.layers import X` drops the message of a missing attribute and then searches for a module fla.layers.X:
    it is here that a program's author is told what there is.
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """None for whatever does not belong to fla; ImportError for what does."""
        del path, target
        parent, _, child = name.rpartition(".")
        part = sys.modules.get(parent)
        if not isinstance(part, _Part):
            return None
        raise ImportError(_missing(part, child))


def install() -> None:
    """Register fla.* and, unless transformers is loaded, the one name of it that programs import. Idempotent."""
    if isinstance(sys.modules.get("fla"), _Part):
        return
    _register("fla", {})
    _register("fla.ops", {name: one for parts in OPERATORS.values() for name, one in parts.items()})
    for package, parts in OPERATORS.items():
        _register(f"fla.ops.{package}", parts)
        for submodule in SUBMODULES:
            _register(f"fla.ops.{package}.{submodule}", parts)
    _register("fla.modules", TOP)
    for module, parts in MODULES.items():
        _register(f"fla.modules.{module}", parts)
    for name, parts in OTHERS.items():
        _register(name, parts)
    if "transformers" not in sys.modules:
        _register("transformers", {})
        _register("transformers.processing_utils", {"Unpack": typing.Unpack})
    sys.meta_path.insert(0, _Refusal)


def _register(name: str, parts: Mapping[str, object]) -> None:
    module = _Part(name)
    module.__path__ = []
    vars(module).update(parts)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent and child not in vars(sys.modules[parent]):
        setattr(sys.modules[parent], child, module)


def _missing(part: ModuleType, name: str) -> str:
    offered = ", ".join(sorted(key for key in vars(part) if not key.startswith("_"))) or "nothing"
    without = "without CUDA" if part.__name__.partition(".")[0] == "fla" else "to programs"
    return f"{part.__name__}.{name} is not available {without}; {part.__name__} offers: {offered}"
