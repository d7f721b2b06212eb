"""Structural fingerprints of programs, for equality up to names and layout, and their similarity.

A program becomes a stream of tokens in which its own names are numbered by scope and imported names are dotted paths.
Annotations, docstrings, comments and ``pass`` are left out; literals and the library's names stay. Similarity is the
weighted Jaccard index of runs of five tokens.
"""

import ast
import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any

from services.domain.syntax import argument_names, bound_names, definitions, parse, registered_name, self_name

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
"""On other objects than self these attributes are the library's, even if a program's class defines them too."""
_MAX_NAMES = 64
"""At most so many owners of one attribute and parameters of one function, which keeps hostile programs linear."""
_IGNORED = frozenset({"ctx", "annotation", "returns", "type_comment", "type_params", "type_ignores", "kind"})


@cache
def _fields_with_tokens(kind: Any) -> tuple[str, ...]:
    return tuple(field for field in kind._fields if field not in _IGNORED)


@cache
def _visitor(kind: Any) -> Callable[["_Normaliser", ast.AST], None]:
    visitor: Callable[[_Normaliser, ast.AST], None]
    visitor = getattr(_Normaliser, f"visit_{kind.__name__}", _Normaliser.generic_visit)
    return visitor


class _Scope:
    """Names bound in one scope, numbered in order of use."""

    def __init__(self, names: Iterable[str]) -> None:
        self.bound = set(names)
        self.numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))


class _Normaliser(ast.NodeVisitor):
    def __init__(self, tree: ast.Module) -> None:
        self.tokens: list[str] = []
        self._definitions = definitions(tree)
        self._owners: dict[str, list[str]] = {}  # the program's classes by attribute
        for owner, names in self._definitions.attributes.items():
            for name in names:
                if len(owners := self._owners.setdefault(name, [])) < _MAX_NAMES:
                    owners.append(owner)
        self._scopes = [_Scope(bound_names(tree.body))]
        self._attributes: dict[tuple[str, str], int] = {}
        self._owner: str | None = None  # the innermost class
        self._in_body = False  # directly in a class body
        self._self: str | None = None

    def visit(self, node: ast.AST) -> None:
        """As the library's, which looks up the method's name again for each node: a third of the time."""
        kind: Any = type(node)
        _visitor(kind)(self, node)

    def generic_visit(self, node: ast.AST) -> None:
        kind: Any = type(node)
        self.tokens.append(kind.__name__)
        for name in _fields_with_tokens(kind):
            self._value(getattr(node, name, None))

    def visit_Constant(self, node: ast.Constant) -> None:
        self.tokens += ["Constant", repr(node.value)]

    def visit_Import(self, node: ast.Import | ast.ImportFrom | ast.Pass) -> None:
        """Without tokens: imports are resolved where they are used."""

    visit_ImportFrom = visit_Pass = visit_Import  # noqa: N815

    def visit_Expr(self, node: ast.Expr) -> None:
        if not (isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)):
            self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.tokens.append("Assign")
            self._value([node.target])
            self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> None:
        self.tokens.append(self._name(node.id))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.tokens += ["Attribute", self._attribute(node.attr, self._is_self(node.value))]
        self.visit(node.value)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self.tokens += ["ExceptHandler", self._name(node.name) if node.name else "-"]
        self._value(node.type)
        self._value(node.body)

    def visit_Call(self, node: ast.Call) -> None:
        self.tokens.append("Call")
        self.visit(node.func)
        name = registered_name(node)
        if name is not None:
            self.tokens.append(self._attribute(name, on_self=True))
        self._value(node.args[name is not None :])
        parameters = self._parameters(node.func)
        for keyword in sorted(node.keywords, key=lambda keyword: _parameter_position(keyword.arg, parameters)[0]):
            self.tokens.append(f"keyword:{_parameter_position(keyword.arg, parameters)[1]}")
            self.visit(keyword.value)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.tokens += ["ClassDef", self._name(node.name)]
        self._value(node.decorator_list)
        self._value(node.bases)
        outer, self._owner, self._in_body = (self._owner, self._in_body), node.name, True
        self._value(node.body)
        self._owner, self._in_body = outer

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.tokens.append("Lambda")
        self._arguments(node.args)
        self._inside(argument_names(node.args), (), [node.body])

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        nodes = (name for generator in node.generators for name in ast.walk(generator.target))
        self._scopes.append(_Scope(name.id for name in nodes if isinstance(name, ast.Name)))
        self.generic_visit(node)
        self._scopes.pop()

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp  # noqa: N815

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        method = self._in_body
        name = self._attribute(node.name, on_self=True) if method else self._name(node.name)
        self.tokens += [type(node).__name__, name]
        self._value(node.decorator_list)
        self._arguments(node.args)
        outer, self._in_body = (self._in_body, self._self), False
        self._self = self_name(node) if method else self._self
        self._inside(argument_names(node.args), bound_names(node.body), node.body)
        self._in_body, self._self = outer

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def _inside(self, arguments: Iterable[str], local: Iterable[str], body: Iterable[ast.AST]) -> None:
        names = tuple(arguments)
        scope = _Scope([*names, *local])
        for name in names:
            scope.number(name)
        self._scopes.append(scope)
        self._value(list(body))
        self._scopes.pop()

    def _arguments(self, args: ast.arguments) -> None:
        kinds = (args.posonlyargs, args.args, args.kwonlyargs)
        self.tokens.append(
            f"arguments:{[len(kind) for kind in kinds]}{args.vararg is not None}{args.kwarg is not None}"
        )
        self._value([*args.defaults, *(default for default in args.kw_defaults if default)])

    def _value(self, value: object) -> None:
        if isinstance(value, ast.AST):
            self.visit(value)
        elif isinstance(value, list):
            self.tokens.append("[")
            for item in value:
                self._value(item)
            self.tokens.append("]")
        else:
            self.tokens.append(repr(value))

    def _name(self, name: str) -> str:
        """A name by the scope that binds it, an import by its path, a builtin unchanged."""
        if self._in_body and self._owner and name in self._definitions.attributes.get(self._owner, ()):
            return self._attribute(name, on_self=True)
        for depth in range(len(self._scopes) - 1, -1, -1):
            if name in self._scopes[depth].bound:
                return f"local:{depth}.{self._scopes[depth].number(name)}"
        return self._definitions.imports.get(name, name)

    def _attribute(self, name: str, on_self: bool) -> str:
        """An attribute of the program's classes as a number, one of the library's unchanged."""
        if on_self and self._owner and name in self._definitions.attributes.get(self._owner, ()):
            owners = [self._owner]
        elif on_self or name not in LIBRARY:
            owners = self._owners.get(name, [])
        else:
            owners = []
        numbers = [self._attributes.setdefault((owner, name), len(self._attributes)) for owner in owners]
        return f"own:{'|'.join(map(str, numbers))}" if numbers else name

    def _parameters(self, function: ast.expr) -> tuple[str, ...]:
        """The parameters of a function, class or method of the program; else none."""
        name = None
        if isinstance(function, ast.Name):
            name = function.id
        elif isinstance(function, ast.Attribute) and self._is_self(function.value):
            name = f"{self._owner}.{function.attr}"
        return self._definitions.parameters.get(name or "", ())[:_MAX_NAMES]

    def _is_self(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id == self._self


def _parameter_position(name: str | None, parameters: tuple[str, ...]) -> tuple[int, str]:
    """Keywords of the program's functions by the parameter's position, others after them as written."""
    if name is not None and name in parameters:
        return parameters.index(name), str(parameters.index(name))
    return len(parameters), str(name)


RUN = 5
"""Tokens per run: about one operation with its operands."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A structural digest (SHA-256, hex), and the number of each run of tokens by its CRC-32."""

    digest: str
    runs: Mapping[int, int] = field(compare=False, repr=False)


@lru_cache(maxsize=128)  # up to 100 KiB each
def fingerprint(program: str) -> Fingerprint:
    """The fingerprint of a program. Raises ``ValueError`` with the line if it is not Python."""
    try:
        tree = parse(program)
        normaliser = _Normaliser(tree)
        normaliser.visit(tree)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"program is not Python that can be parsed: {error}") from error
    encoded = "\0".join(normaliser.tokens).encode()
    starts = [0, *accumulate(len(token) + 1 for token in encoded.split(b"\0"))]
    ends = [start - 1 for start in starts[RUN:]] or [len(encoded)]
    runs = Counter(map(zlib.crc32, map(encoded.__getitem__, map(slice, starts, ends))))
    return Fingerprint(hashlib.sha256(encoded).hexdigest(), runs)


def similarity(first: Fingerprint, second: Fingerprint) -> float:
    """1 for equal structure, 0 for nothing in common; symmetric."""
    if first.digest == second.digest:
        return 1.0
    shared = len(first.runs.keys() & second.runs.keys())  # once each; most runs occur once
    shared += sum(min(count, second.runs.get(run, 1)) - 1 for run, count in first.runs.items() if count > 1)
    return shared / (sum(first.runs.values()) + sum(second.runs.values()) - shared)
