"""Where the program's `fla` comes from: flash-linear-attention on a GPU, the parts beside this file elsewhere.

The program is executed as it was measured, byte for byte; only what its imports of fla (and of the one name of
transformers) find is decided here. Nothing outside this package is changed by it.
"""

import builtins
import importlib.util
import typing
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch

from services.fla_cpu.names import MODULES, OPERATORS, OTHERS, SUBMODULES, TOP


def on_gpu() -> bool:
    """Whether the program gets flash-linear-attention's own kernels."""
    return torch.cuda.is_available() and importlib.util.find_spec("fla") is not None


def execute(path: Path, name: str) -> ModuleType:
    """The program in the file at `path` as a module called `name`."""
    module = ModuleType(name)
    module.__file__ = str(path)
    parts = {} if on_gpu() else _parts()
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _importer(parts)}
    compiler = torch.compile
    if not on_gpu():
        torch.compile = _unchanged  # type: ignore[assignment]
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)  # noqa: S102 - its purpose
    finally:
        torch.compile = compiler
    return module


def _unchanged(function: object = None, **_options: object) -> object:
    """Stands for torch.compile while the program is executed on a CPU, as a call or as a decorator."""
    return function if function is not None else lambda one: one


class _Import(typing.Protocol):
    def __call__(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 - the interpreter's own names
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: typing.Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType: ...


def _importer(parts: Mapping[str, ModuleType]) -> _Import:
    def find(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: typing.Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level or name not in parts:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        return parts[name] if fromlist else parts[name.partition(".")[0]]

    return find


def _parts() -> dict[str, ModuleType]:
    """Our implementation under fla's names, as modules that are not installed globally."""
    found: dict[str, ModuleType] = {}
    _add(found, "fla", {})
    _add(found, "fla.ops", {name: one for operators in OPERATORS.values() for name, one in operators.items()})
    for package, operators in OPERATORS.items():
        _add(found, f"fla.ops.{package}", operators)
        for submodule in SUBMODULES:
            _add(found, f"fla.ops.{package}.{submodule}", operators)
    _add(found, "fla.modules", TOP)
    for module, contents in MODULES.items():
        _add(found, f"fla.modules.{module}", contents)
    for name, contents in OTHERS.items():
        _add(found, name, contents)
    _add(found, "transformers", {})
    _add(found, "transformers.processing_utils", {"Unpack": typing.Unpack})
    return found


def _add(found: dict[str, ModuleType], name: str, contents: Mapping[str, object]) -> None:
    module = ModuleType(name)
    vars(module).update(contents)
    found[name] = module
    parent, _, child = name.rpartition(".")
    if parent and child not in vars(found[parent]):
        setattr(found[parent], child, module)
