"""Chooses a program's `fla`: flash-linear-attention on a GPU, else the implementation in this package.

The program is executed unchanged; only its imports of fla and transformers are redirected; no global module changes.
"""

import builtins
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import torch

from services.fla_cpu.names import FLA, TRANSFORMERS, modules, no_op_decorator


def on_gpu() -> bool:
    """Whether programs use flash-linear-attention's kernels."""
    return torch.cuda.is_available() and importlib.util.find_spec("fla") is not None


def execute(path: Path, name: str) -> ModuleType:
    """The program in the file at `path` as a module called `name`."""
    module = ModuleType(name)
    module.__file__ = str(path)
    parts = {} if on_gpu() else modules(FLA | TRANSFORMERS)
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _importer(parts)}
    compiler = torch.compile
    if not on_gpu():
        torch.compile = no_op_decorator  # type: ignore[assignment]
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)  # noqa: S102 - the program
    finally:
        torch.compile = compiler
    return module


def _importer(parts: Mapping[str, ModuleType]) -> Callable[..., ModuleType]:
    """The interpreter's `__import__`, which finds the parts first."""

    def find(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 - the interpreter's own names
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level or name not in parts:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        return parts[name] if fromlist else parts[name.partition(".")[0]]

    return find
