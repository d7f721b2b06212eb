"""Parsing of untrusted programs, with limits that keep it fast, and the names that a program defines."""

import ast
import io
import re
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

MAX_BYTES = 256 << 10
MAX_DEPTH = 200
"""The maximum nesting of nodes: three recursions per node stay below Python's limit of 1000."""
MAX_BRACES = 4000
"""Python 3.11 parses a text with many replacement fields in quadratic time: 9 s for 60,000."""
MAX_DOTS = 1000
"""In a line that imports: Python parses a dotted name of an import in quadratic time, 100,000 parts in 17 s."""
_CONTINUATION, _LINE_END = re.compile(r"\\(?:\r\n?|\n)"), re.compile(r"[\r\n]")
_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
_TOO_DEEP = f"the program is nested too deeply: {MAX_DEPTH} levels of expressions and blocks are allowed"

_parsing = threading.Lock()
"""Python 3.11 counts the depth of syntax trees across threads, so that concurrent parsing may fail."""


class Unreadable(ValueError):  # noqa: N818 -- what the program is
    """The program cannot be parsed within the limits. The message names the reason and the line."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason if line is None else f"line {line}: {reason}")
        self.line = line


def parse(program: str) -> ast.Module:
    """The tree of a program without its byte order mark. Raises Unreadable."""
    program = program.removeprefix("\ufeff")
    try:
        size = len(program.encode())
    except UnicodeEncodeError as error:
        line = program.count("\n", 0, error.start) + 1
        raise Unreadable("the text holds half of a surrogate pair, which is no character", line) from error
    if size > MAX_BYTES:
        raise Unreadable(f"the program has {size} bytes; {MAX_BYTES} are allowed")
    if "\0" in program:
        raise Unreadable("the text holds a null byte", program.count("\n", 0, program.index("\0")) + 1)
    if program.count("{") > MAX_BRACES:
        raise Unreadable(f"the program has more than {MAX_BRACES} opening braces")
    dotted = _LINE_END.split(_CONTINUATION.sub(" ", program)) if program.count(".") > MAX_DOTS else ()
    if any(line.count(".") > MAX_DOTS and ("import" in line or "from" in line) for line in dotted):
        raise Unreadable(f"the name of an import has more than {MAX_DOTS} dots")
    try:
        with _parsing:
            tree = ast.parse(program)
    except SyntaxError as error:
        raise Unreadable(_reason(error, program), error.lineno) from error
    except (RecursionError, MemoryError) as error:
        raise Unreadable(_TOO_DEEP) from error
    return tree


def lines_of(program: str) -> list[str]:
    """The lines that Python counts, with their ends. `str.splitlines` also splits at form feeds and at U+2028."""
    return io.StringIO(program, newline="").readlines()


def _reason(error: SyntaxError, program: str) -> str:
    if (error.text or "").lstrip().startswith("```"):
        return "a Markdown fence (```) is not Python: remove it"
    prose = _FENCE.split(program, maxsplit=1)[0]  # unless the fence is in a docstring
    if len(prose) < len(program) and not any(quotes in prose for quotes in ('"""', "'''")):
        return f"{error.msg}: of a text with Markdown fences (```), keep the program between them only"
    return f"{error.msg} (Python {sys.version_info.major}.{sys.version_info.minor})"


def require_shallow(tree: ast.Module) -> None:
    """Raises Unreadable where nodes are nested more than MAX_DEPTH deep."""
    stack: list[tuple[ast.AST, int, int | None]] = [(tree, 0, None)]
    while stack:
        node, depth, line = stack.pop()
        line = getattr(node, "lineno", line)  # operators have none
        if depth > MAX_DEPTH:
            raise Unreadable(_TOO_DEEP, line)
        stack += [(child, depth + 1, line) for child in ast.iter_child_nodes(node)]


INTERFACE = frozenset({"forward", "extra_repr", "reset_parameters"})
"""Methods that a module library calls by name, besides dunder methods."""
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES = frozenset((*_FUNCTIONS, *_COMPREHENSIONS, ast.ClassDef))
_LEAVES = frozenset((ast.Name, ast.Constant, ast.Global, ast.Nonlocal, ast.Pass, ast.Break, ast.Continue))
_PLAIN = frozenset(
    {"ctx", "op", "ops", "id", "attr", "arg", "name", "type_comment", "kind", "level", "module", "simple"}
)
"""Fields without nodes that bind names."""
_BLOCKS = frozenset({"body", "orelse", "finalbody", "handlers", "cases"})
_REGISTERING = frozenset({"register_buffer", "register_parameter", "add_module"})


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree, from which the docstrings of the module, its classes and functions are removed in place."""
    for node in ast.walk(tree):
        if isinstance(node, Documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


@dataclass(frozen=True, slots=True)
class Definitions:
    """The definitions of a program: attributes by class, parameters by function, imports."""

    attributes: dict[str, frozenset[str]]
    parameters: dict[str, tuple[str, ...]]
    """By function name, class name (``__init__`` without self) or ``Class.method``."""
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
    """Names bound in the class body, stored on self, or registered by a literal name, without the interface."""
    names = set(bound_names(node.body))
    for method in node.body:
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            names |= set(_stored_on_self(method))
    return {name for name in names if name not in INTERFACE and not name.startswith("__")}


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
    decorators = function.decorator_list
    static = any(isinstance(decorator, ast.Name) and decorator.id == "staticmethod" for decorator in decorators)
    return names[0] if names and not static else None


def bound_names(body: list[ast.stmt]) -> Iterator[str]:
    """Names that the statements bind in their own scope."""
    for node in _walk(body, _SCOPES):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements and their blocks, breadth first."""
    queue = deque[ast.AST]([tree])
    while queue:
        node = queue.popleft()
        yield node
        for name in type(node)._fields:
            if name in _BLOCKS:
                queue.extend(getattr(node, name))


@cache
def _fields_with_bindings(kind: Any) -> tuple[str, ...]:
    return () if kind in _LEAVES else tuple(field for field in kind._fields if field not in _PLAIN)


def _walk(nodes: Iterable[ast.AST], not_into: frozenset[type[ast.AST]] = frozenset()) -> Iterator[ast.AST]:
    """The nodes and their descendants, but not below some types. `ast.walk` takes three times as long."""
    stack: list[object] = list(nodes)
    while stack:
        node = stack.pop()
        if not isinstance(node, ast.AST):
            continue
        yield node
        kind: Any = type(node)  # mypy does not take types for hashable
        if kind in not_into:
            continue
        for name in _fields_with_bindings(kind):
            value = getattr(node, name, None)
            if type(value) is list:
                stack += value
            elif value is not None:
                stack.append(value)


def _stored_on_self(method: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    owner = self_name(method)
    for node in _walk([method]):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == owner:
                yield node.attr
        elif isinstance(node, ast.Call) and (name := registered_name(node)):
            yield name


def _method_parameters(node: ast.ClassDef) -> dict[str, tuple[str, ...]]:
    parameters: dict[str, tuple[str, ...]] = {}
    for method in node.body:
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            names = argument_names(method.args)
            key = node.name if method.name == "__init__" else f"{node.name}.{method.name}"
            parameters[key] = names if self_name(method) is None else names[1:]
    return parameters


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            yield alias.asname or alias.name, f"{'.' * node.level}{node.module or ''}.{alias.name}"
        else:
            top = alias.name.split(".")[0]
            yield alias.asname or top, alias.name if alias.asname else top
