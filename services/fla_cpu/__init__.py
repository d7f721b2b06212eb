"""Common parts of flash-linear-attention in plain PyTorch, for machines without a GPU.

`install()` registers them under fla's module names, so that programs that import fla run unchanged. On a GPU, fla's
Triton kernels are used instead; both agree up to rounding. Loading and checking programs is the engineer's task.
"""

import difflib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from services.fla_cpu.names import FLA, TRANSFORMERS, modules

__all__ = ["install"]


class _FlaModule(ModuleType):
    """A module whose error message for a missing attribute lists the existing ones."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(_missing(self, name))


class _MissingModules:
    """A finder that raises ImportError for missing modules of fla, before an installed fla is found.

    `from fla.layers import X` ignores the AttributeError and then imports the module fla.layers.X, so the message must
    be raised here.
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """None for modules outside fla. Raises ImportError for others."""
        del path, target
        parent, _, child = name.rpartition(".")
        part = sys.modules.get(parent)
        if not isinstance(part, _FlaModule):
            return None
        raise ImportError(_missing(part, child))


def install() -> None:
    """Register fla.* and, unless transformers is loaded, some of its names. Idempotent."""
    if isinstance(sys.modules.get("fla"), _FlaModule):
        return
    for name, module in modules(FLA if "transformers" in sys.modules else FLA | TRANSFORMERS, _FlaModule).items():
        sys.modules[name] = module
        module.__path__ = []
        module.__spec__ = ModuleSpec(name, None, is_package=True)  # without one, find_spec(name) raises ValueError
    sys.meta_path.insert(0, _MissingModules)


MOST_OFFERED = 24
"""Names in a message: of fla.ops, with over a hundred, only those that resemble the missing one most."""

MOVED = {"fla.ops.common": "fla.ops.common.utils is fla.ops.utils now"}
"""Names of earlier versions of fla, which many layers still import, and what to write instead."""


def _missing(part: ModuleType, name: str) -> str:
    names = [key for key in vars(part) if not key.startswith("_")]
    resembling = sorted(difflib.get_close_matches(name, names, MOST_OFFERED, cutoff=0.0))
    offered = (", ".join(resembling) or "nothing") + (", among others" if len(names) > MOST_OFFERED else "")
    without = "without CUDA" if part.__name__.partition(".")[0] == "fla" else "to programs"
    if moved := MOVED.get(f"{part.__name__}.{name}"):
        return f"{part.__name__}.{name} is not available: {moved}"
    copy = ": copy the layer's class into the program" if part.__name__ == "fla.layers" and name[:1].isupper() else ""
    return f"{part.__name__}.{name} is not available {without}{copy}; {part.__name__} offers: {offered}"
