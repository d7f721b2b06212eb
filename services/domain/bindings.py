"""Which names a Python program defines itself: the ones that may be renamed without changing the program."""

import ast
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

INTERFACE = frozenset({"forward", "extra_repr", "reset_parameters"})
"""Methods that a module library calls by name, so that another name makes another program; dunder names too."""
# fmt: off
LIBRARY = frozenset(
    {
        "weight", "bias", "shape", "dtype", "device", "data", "grad", "T", "mT", "real", "imag", "training",
        "size", "view", "reshape", "transpose", "permute", "contiguous", "to", "float", "sum", "mean",
        "max", "min", "abs", "exp", "log", "sqrt", "norm", "clamp", "unsqueeze", "squeeze", "append",
        "items", "keys", "values", "get", "update", "in_features", "out_features"
    }
)
# fmt: on
"""Attributes of other objects that a program may also define on its own ones: there, they mean the library's."""
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES = frozenset((*_FUNCTIONS, *_COMPREHENSIONS, ast.ClassDef))
_LEAVES = frozenset((ast.Name, ast.Constant, ast.Global, ast.Nonlocal, ast.Pass, ast.Break, ast.Continue))
_PLAIN = frozenset(
    {"ctx", "op", "ops", "id", "attr", "arg", "name", "type_comment", "kind", "level", "module", "simple"}
)
"""Fields that never hold a node by which a name is bound: texts, operators, whether a name is read or written."""
_BLOCKS = frozenset({"body", "orelse", "finalbody", "handlers", "cases"})
_REGISTERING = frozenset({"register_buffer", "register_parameter", "add_module"})


@dataclass(frozen=True, slots=True)
class Definitions:
    """What a program defines: attributes by class, parameters of its functions and classes, and imported paths."""

    attributes: dict[str, frozenset[str]]
    parameters: dict[str, tuple[str, ...]]
    """By the function's name; a class stands for its ``__init__``, without self; methods are ``Class.method``."""
    imports: dict[str, str]
    """Local name to dotted path: ``F`` to ``torch.nn.functional``."""


def definitions(tree: ast.Module) -> Definitions:
    """Collect the definitions of a parsed program."""
    attributes: dict[str, frozenset[str]] = {}
    parameters: dict[str, tuple[str, ...]] = {}
    imports: dict[str, str] = {}
    for node in _statements(tree):
        if isinstance(node, ast.ClassDef):
            attributes[node.name] = frozenset(own_attributes(node))
            parameters.update(_method_parameters(node))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imports.update(_imported(node))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parameters[node.name] = argument_names(node.args)
    return Definitions(attributes, parameters, imports)


def own_attributes(node: ast.ClassDef) -> set[str]:
    """Names bound in the class body, stored on self, or registered by a literal name; the interface is left out."""
    found = set(bound_names(node.body))
    for method in node.body:
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            found |= set(_stored_on_self(method))
    return {name for name in found if name not in INTERFACE and not name.startswith("__")}


def registered_name(node: ast.Call) -> str | None:
    """The literal name that ``self.register_buffer("name", …)`` and its like define."""
    if isinstance(node.func, ast.Attribute) and node.func.attr in _REGISTERING and node.args:
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return first.value
    return None


def argument_names(args: ast.arguments) -> tuple[str, ...]:
    """All parameters in the order they are written, starred ones last."""
    plain = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return (*plain, *(arg.arg for arg in (args.vararg, args.kwarg) if arg))


def self_name(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """The first parameter of a method, ``None`` for a static one."""
    names = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args)]
    static = any(isinstance(one, ast.Name) and one.id == "staticmethod" for one in function.decorator_list)
    return names[0] if names and not static else None


def bound_names(body: list[ast.stmt]) -> Iterator[str]:
    """Names that these statements bind in their own scope, not those inside nested functions or classes."""
    for node in _walk(body, _SCOPES):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements and what holds them, outer ones first: classes and imports are nowhere else."""
    waiting = deque[ast.AST]([tree])
    while waiting:
        node = waiting.popleft()
        yield node
        for field in type(node)._fields:
            if field in _BLOCKS:
                waiting.extend(getattr(node, field))


class _Inner(dict[type[ast.AST], tuple[str, ...]]):
    """The fields of a node in which other nodes may lie that bind a name or hold one that does; made up once a type."""

    def __missing__(self, kind: type[ast.AST]) -> tuple[str, ...]:
        self[kind] = () if kind in _LEAVES else tuple(field for field in kind._fields if field not in _PLAIN)
        return self[kind]


_inner = _Inner()


def _walk(nodes: Iterable[ast.AST], not_into: frozenset[type[ast.AST]] = frozenset()) -> Iterator[ast.AST]:
    """The nodes and all below them but operators, in no particular order; nothing from inside nodes of some types.

    `ast.walk` takes three times as long, which is most of the time that a fingerprint takes.
    """
    waiting: list[object] = list(nodes)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, ast.AST):
            continue
        yield node
        kind = type(node)
        if kind in not_into:
            continue
        for field in _inner[kind]:
            value = getattr(node, field, None)
            if type(value) is list:
                waiting += value
            elif value is not None:
                waiting.append(value)


def _stored_on_self(method: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    owner = self_name(method)
    for node in _walk([method]):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == owner:
                yield node.attr
        elif isinstance(node, ast.Call) and (name := registered_name(node)):
            yield name


def _method_parameters(node: ast.ClassDef) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for method in node.body:
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            names = argument_names(method.args)
            key = node.name if method.name == "__init__" else f"{node.name}.{method.name}"
            found[key] = names if self_name(method) is None else names[1:]
    return found


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            yield alias.asname or alias.name, f"{'.' * node.level}{node.module or ''}.{alias.name}"
        else:
            top = alias.name.split(".")[0]
            yield alias.asname or top, alias.name if alias.asname else top
