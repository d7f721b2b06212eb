"""The static screen: what a program may import, name and touch, decided on its syntax tree before anything runs.

It keeps honest programs honest and gives clear refusals. It is no wall: Python can be written around any list of
names. The wall is the sandbox.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from services.domain.syntax import Unreadable, parse, require_shallow
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
from services.sandbox import Channel, ChildError, Limits, Sandbox
from services.sandbox.wire import printable

_LIMITS = Limits(memory_bytes=1 << 30, cpu_seconds=10, wall_seconds=20)


@dataclass(frozen=True)
class Objection:
    """One refusal: the line, and what is wrong there."""

    line: int
    reason: str


async def screen_apart(program: str, sandbox: Sandbox, limit: int) -> Finding:
    """`screen` in a child of its own: what a text does to Python's parser happens there, within a limit on time.

    Raises SandboxUnavailable.
    """
    if len(program.encode(errors="replace")) > limit:
        return Finding(True, f"the program has more than {limit} bytes", {"limit": limit})
    try:
        async with sandbox.child(f"{__name__}:run", _LIMITS) as child:
            await child.send("screen", {"program": program})
            answer = await child.receive(_LIMITS.wall_seconds)
    except ChildError as error:
        return Finding(True, f"the program could not be parsed: {error.reason}", {"log": error.log_tail[-2000:]})
    return Finding.from_json(answer.header)


def run(channel: Channel) -> None:
    """The guest: no program runs here, so its answer is ours."""
    channel.send("screened", screen(str(channel.receive().header["program"])).to_json())


def screen(program: str) -> Finding:
    """Parses the program and looks for what no mixer needs.

    Cannot see: what is reached through strings, containers or values computed while it runs.
    """
    try:
        tree = parse(program)
        require_shallow(tree)
    except Unreadable as error:
        return Finding(True, f"does not parse: {error}", {} if error.line is None else {"line": error.line})
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
    parts = name.split(".")[:8]  # longer than any listed module
    prefixes = {".".join(parts[: end + 1]) for end in range(len(parts))}
    if (
        prefixes & FORBIDDEN_MODULES
        or not prefixes & ALLOWED_IMPORTS
        or any(part.startswith("_") for part in parts[1:])
    ):
        allowed = "torch, einops, fla, and of Python's own math, typing, functools, itertools and their like"
        yield f"import of {printable(name, 80)} is not allowed: a program may use {allowed}"


def _name(node: ast.Name, imported: set[str]) -> Iterator[str]:
    if node.id in FORBIDDEN_NAMES - imported or (_is_dunder(node.id) and node.id not in HARMLESS_DUNDERS):
        yield f"{node.id} is not allowed"


def _attribute(node: ast.Attribute, imported: set[str]) -> Iterator[str]:
    path = _dotted(node)
    if path in FORBIDDEN_MODULES:
        yield f"{path} is not allowed"
    elif node.attr in FORBIDDEN_ATTRIBUTES or (_is_dunder(node.attr) and node.attr not in HARMLESS_DUNDERS):
        yield f".{printable(node.attr, 80)} is not allowed"
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
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


_RULES: dict[type[ast.AST], Callable[..., Iterator[str]]] = {
    ast.Import: _import,
    ast.ImportFrom: _import_from,
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.Call: _call,
}
