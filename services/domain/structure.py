"""What a program is apart from its names: a fingerprint for equality and a similarity for nearness.

A program becomes a stream of tokens in which its own names are numbers. Scopes are respected, so renaming a local in
one function alone leaves the stream unchanged. Imports become the paths they stand for; annotations, docstrings,
comments and ``pass`` leave no trace; literals and the library's names stay. Programs that differ in identifiers or
layout only have one digest; similarity is the weighted Jaccard index of runs of five tokens.
"""

import ast
import hashlib
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from services.domain.syntax import parse

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
_MOST_NAMES = 64
"""Owners of one attribute, and parameters of one function, that are looked at: keeps hostile programs linear."""
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
        for name in type(node)._fields:
            if name in _BLOCKS:
                waiting.extend(getattr(node, name))


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
        for name in _inner[kind]:
            value = getattr(node, name, None)
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


_SILENT = frozenset({"ctx", "annotation", "returns", "type_comment", "type_params", "type_ignores", "kind"})


class _Spoken(dict[type[ast.AST], tuple[str, ...]]):
    """The fields of a node that leave a trace; made up once a type."""

    def __missing__(self, kind: type[ast.AST]) -> tuple[str, ...]:
        self[kind] = tuple(field for field in kind._fields if field not in _SILENT)
        return self[kind]


_spoken = _Spoken()
_METHODS: dict[type[ast.AST], Callable[["_Normaliser", ast.AST], None]] = {}
"""What visits a node of each type, as far as such nodes were met."""


def normalised_tokens(tree: ast.Module) -> list[str]:
    """The token stream of a parsed program."""
    normaliser = _Normaliser(tree)
    normaliser.visit(tree)
    return normaliser.tokens


class _Scope:
    """Names bound in one scope, numbered as they are first met."""

    def __init__(self, names: Iterable[str]) -> None:
        self.bound = set(names)
        self.numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))


class _Normaliser(ast.NodeVisitor):
    def __init__(self, tree: ast.Module) -> None:
        self.tokens: list[str] = []
        self._known = definitions(tree)
        self._owners: dict[str, list[str]] = {}
        """By attribute: the program's classes that have it, as many as tell two programs apart."""
        for owner, names in self._known.attributes.items():
            for name in names:
                if len(owners := self._owners.setdefault(name, [])) < _MOST_NAMES:
                    owners.append(owner)
        self._scopes = [_Scope(bound_names(tree.body))]
        self._attributes: dict[tuple[str, str], int] = {}
        self._owner: str | None = None
        """The innermost class around here."""
        self._in_body = False
        """Whether the statement stands directly in a class body."""
        self._self: str | None = None

    def visit(self, node: ast.AST) -> None:
        """As the library's, without making up the method's name anew for each node: that is a third of the time."""
        kind = type(node)
        method = _METHODS.get(kind)
        if method is None:
            method = _METHODS[kind] = getattr(type(self), f"visit_{kind.__name__}", type(self).generic_visit)
        method(self, node)

    def generic_visit(self, node: ast.AST) -> None:
        kind = type(node)
        self.tokens.append(kind.__name__)
        for name in _spoken[kind]:
            self._value(getattr(node, name, None))

    def visit_Constant(self, node: ast.Constant) -> None:
        self.tokens += ["Constant", repr(node.value)]

    def visit_Import(self, node: ast.Import) -> None:
        """Imports show where they are used."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Imports show where they are used."""

    def visit_Pass(self, node: ast.Pass) -> None:
        """Does nothing, so leaves nothing."""

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
        for keyword in sorted(node.keywords, key=lambda keyword: _place(keyword.arg, parameters)[0]):
            self.tokens.append(f"keyword:{_place(keyword.arg, parameters)[1]}")
            self.visit(keyword.value)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.tokens += ["ClassDef", self._name(node.name)]
        self._value(node.decorator_list)
        self._value(node.bases)
        outer, self._owner, self._in_body = (self._owner, self._in_body), node.name, True
        self._value(node.body)
        self._owner, self._in_body = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.tokens.append("Lambda")
        self._arguments(node.args)
        self._inside(argument_names(node.args), (), [node.body])

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._comprehension(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._comprehension(node)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._comprehension(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._comprehension(node)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        targets = [
            name.id
            for generator in node.generators
            for name in ast.walk(generator.target)
            if isinstance(name, ast.Name)
        ]
        self._scopes.append(_Scope(targets))
        self.generic_visit(node)
        self._scopes.pop()

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        method = self._in_body
        name = self._attribute(node.name, on_self=True) if method else self._name(node.name)
        self.tokens += [type(node).__name__, name]
        self._value(node.decorator_list)
        self._arguments(node.args)
        outer, self._in_body = (self._in_body, self._self), False
        self._self = self_name(node) if method else self._self
        self._inside(argument_names(node.args), bound_names(node.body), node.body)
        self._in_body, self._self = outer

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
        """A name by the scope that binds it, an import by its path, anything else (a builtin) as it is."""
        if self._in_body and self._owner and name in self._known.attributes.get(self._owner, ()):
            return self._attribute(name, on_self=True)
        for depth in range(len(self._scopes) - 1, -1, -1):
            if name in self._scopes[depth].bound:
                return f"local:{depth}.{self._scopes[depth].number(name)}"
        return self._known.imports.get(name, name)

    def _attribute(self, name: str, on_self: bool) -> str:
        """An attribute of the program's own classes as a number, one of the library's as it is."""
        if on_self and self._owner and name in self._known.attributes.get(self._owner, ()):
            owners = [self._owner]
        elif on_self or name not in LIBRARY:
            owners = self._owners.get(name, [])
        else:
            owners = []
        numbers = [self._attributes.setdefault((owner, name), len(self._attributes)) for owner in owners]
        return f"own:{'|'.join(map(str, numbers))}" if numbers else name

    def _parameters(self, function: ast.expr) -> tuple[str, ...]:
        """The parameters of a call to one of the program's own functions, classes or methods; else none."""
        known = self._known.parameters
        if isinstance(function, ast.Name):
            return known.get(function.id, ())[:_MOST_NAMES]
        if isinstance(function, ast.Attribute) and self._is_self(function.value):
            return known.get(f"{self._owner}.{function.attr}", ())[:_MOST_NAMES]
        return ()

    def _is_self(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id == self._self


def _place(name: str | None, parameters: tuple[str, ...]) -> tuple[int, str]:
    """Keywords of own functions by the parameter's place, others after them in the order written."""
    if name is not None and name in parameters:
        return parameters.index(name), str(parameters.index(name))
    return len(parameters), str(name)


RUN = 5
"""Tokens per run: long enough to hold an operation with its operands, short enough to survive an edit nearby."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A structural digest (SHA-256, hex) and how often each run of tokens (its CRC-32) occurs."""

    digest: str
    runs: Mapping[int, int] = field(compare=False, repr=False)


@lru_cache(maxsize=128)  # up to 100 KiB each; what is compared at one time are a candidate's relatives
def fingerprint(program: str) -> Fingerprint:
    """The fingerprint of a text, parsed once. Raises ``ValueError`` where it is not Python, with the line."""
    try:
        tokens = normalised_tokens(parse(program))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"program is not Python that can be parsed: {error}") from error
    encoded = [token.encode() for token in tokens]
    digest = hashlib.sha256(b"\x00".join(encoded)).hexdigest()
    runs = Counter(zlib.crc32(b"\x00".join(encoded[at : at + RUN])) for at in range(max(1, len(encoded) - RUN + 1)))
    return Fingerprint(digest, runs)


def same_structure(one: str, other: str) -> bool:
    """Whether two programs differ in names and layout at most; errors as :func:`fingerprint`."""
    return fingerprint(one) == fingerprint(other)


def similarity(one: Fingerprint, other: Fingerprint) -> float:
    """1 for equal structure, 0 for nothing in common; symmetric."""
    if one.digest == other.digest:
        return 1.0
    both = one.runs.keys() & other.runs.keys()
    shared = sum(map(min, map(one.runs.__getitem__, both), map(other.runs.__getitem__, both)))
    return shared / (sum(one.runs.values()) + sum(other.runs.values()) - shared)


def nearest(one: Fingerprint, others: Mapping[str, Fingerprint], count: int) -> list[tuple[str, float]]:
    """The ids of the ``count`` most similar programs with their similarity, best first, ties by id."""
    scored = [(name, similarity(one, other)) for name, other in others.items()]
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:count]
