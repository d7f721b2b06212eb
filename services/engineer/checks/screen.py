"""The static screen: what a program may import, name and touch, decided on its syntax tree before anything runs.

It keeps honest programs honest and gives clear refusals. It is no wall: Python can be written around any list of
names. The wall is the sandbox.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from services.engineer.checks.report import JSON, Finding
from services.engineer.checks.screen_rules import (
    ALLOWED_IMPORTS,
    FORBIDDEN_ATTRIBUTES,
    FORBIDDEN_MODULES,
    FORBIDDEN_NAMES,
    HARMLESS_DUNDERS,
    ONLY_THESE,
    PURE_MODULES,
)


@dataclass(frozen=True)
class Objection:
    """One refusal: the line, and what is wrong there."""

    line: int
    reason: str


def screen(program: str, limit: int = 256 << 10) -> Finding:
    """Parses the program and looks for what no mixer needs. `limit` is in bytes.

    Cannot see: what is reached through strings, containers or values computed while it runs.
    """
    if len(program.encode(errors="replace")) > limit:
        return Finding(True, f"the program has more than {limit} bytes", {"limit": limit})
    try:
        tree = ast.parse(program)
    except SyntaxError as error:
        return Finding(True, f"does not parse: line {error.lineno}: {error.msg}", {"line": error.lineno})
    except (ValueError, RecursionError, MemoryError) as error:
        return Finding(True, f"does not parse: {error or type(error).__name__}")
    found = sorted(_objections(tree), key=lambda objection: objection.line)
    if not found:
        return Finding(False, "nothing forbidden in the source")
    listed: list[JSON] = [{"line": objection.line, "reason": objection.reason} for objection in found[:20]]
    return Finding(True, f"line {found[0].line}: {found[0].reason}", {"objections": listed, "line": found[0].line})


def _objections(tree: ast.Module) -> Iterator[Objection]:
    imported = set(_imported_modules(tree))
    for node in ast.walk(tree):
        rule = _RULES.get(type(node))
        if rule:
            for reason in rule(node, imported):
                yield Objection(getattr(node, "lineno", 0), reason)


def _imported_modules(tree: ast.Module) -> Iterator[str]:
    """Names bound to modules by import statements (torch, nn, F, math …)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module in {"torch", "torch.nn", "torch.utils"}:
            yield from (alias.asname or alias.name for alias in node.names if alias.name.islower())


def _import(node: ast.Import, _: set[str]) -> Iterator[str]:
    for alias in node.names:
        yield from _module(alias.name)


def _import_from(node: ast.ImportFrom, _: set[str]) -> Iterator[str]:
    if node.level:
        yield "relative imports are not possible: a program is one file"
        return
    module = node.module or ""
    refused = list(_module(module))
    yield from refused
    for alias in [] if refused else node.names:
        if alias.name == "*":
            yield f"import what is needed from {module} by name, not *"
        elif not _importable(module, alias.name):
            yield f"import of {module}.{alias.name} is not allowed"


def _importable(module: str, name: str) -> bool:
    listed = name in ONLY_THESE.get(module, {name})
    return listed and f"{module}.{name}" not in FORBIDDEN_MODULES and name not in FORBIDDEN_ATTRIBUTES


def _module(name: str) -> Iterator[str]:
    parts = name.split(".")
    prefixes = {".".join(parts[: end + 1]) for end in range(len(parts))}
    if (
        prefixes & FORBIDDEN_MODULES
        or not prefixes & ALLOWED_IMPORTS
        or any(part.startswith("_") for part in parts[1:])
    ):
        yield f"import of {name} is not allowed"


def _name(node: ast.Name, imported: set[str]) -> Iterator[str]:
    if node.id in FORBIDDEN_NAMES - imported or (_is_dunder(node.id) and node.id not in HARMLESS_DUNDERS):
        yield f"{node.id} is not allowed"


def _attribute(node: ast.Attribute, imported: set[str]) -> Iterator[str]:
    path = _dotted(node)
    if path in FORBIDDEN_MODULES:
        yield f"{path} is not allowed"
    elif node.attr in FORBIDDEN_ATTRIBUTES or (_is_dunder(node.attr) and node.attr not in HARMLESS_DUNDERS):
        yield f".{node.attr} is not allowed"
    elif isinstance(node.ctx, ast.Store | ast.Del) and path and path.split(".")[0] in imported:
        yield f"{path} belongs to a library and must not be changed"


def _call(node: ast.Call, imported: set[str]) -> Iterator[str]:
    if not (isinstance(node.func, ast.Name) and node.func.id in {"setattr", "delattr", "getattr"} and node.args):
        return
    target = _dotted(node.args[0])
    if node.func.id != "getattr" and target and target.split(".")[0] in imported:
        yield f"{target} belongs to a library and must not be changed"
    attribute = node.args[1] if len(node.args) > 1 else None
    if isinstance(attribute, ast.Constant) and isinstance(attribute.value, str):
        yield from _attribute(ast.Attribute(node.args[0], attribute.value, ast.Load()), imported)
    elif target and target.split(".")[0] in imported and target not in PURE_MODULES:
        yield f"{node.func.id} on {target} needs a literal name"


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__") and len(name) > 4


def _dotted(node: ast.expr) -> str:
    """`torch.nn.functional` of that expression; empty for anything but a chain of names."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


_RULES: dict[type[ast.AST], Callable[..., Iterator[str]]] = {
    ast.Import: _import,
    ast.ImportFrom: _import_from,
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.Call: _call,
}
