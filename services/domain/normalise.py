"""A program as a stream of tokens in which its own names are numbers: what remains when names and layout are taken
away.

Scopes are respected, so renaming a local in one function alone leaves the stream as it was. Imports become the paths
they stand for. Annotations, docstrings, comments and ``pass`` leave no trace; literals and the library's names stay.
"""

import ast
from collections.abc import Callable, Iterable

from services.domain.bindings import (
    LIBRARY,
    argument_names,
    bound_names,
    definitions,
    registered_name,
    self_name,
)

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
        for field in _spoken[kind]:
            self._value(getattr(node, field, None))

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
        for keyword in sorted(node.keywords, key=lambda one: _place(one.arg, parameters)[0]):
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
        targets = [name.id for one in node.generators for name in ast.walk(one.target) if isinstance(name, ast.Name)]
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
            owners = [one for one, names in self._known.attributes.items() if name in names]
        else:
            owners = []
        numbers = [self._attributes.setdefault((one, name), len(self._attributes)) for one in owners]
        return f"own:{'|'.join(map(str, numbers))}" if numbers else name

    def _parameters(self, function: ast.expr) -> tuple[str, ...]:
        """The parameters of a call to one of the program's own functions, classes or methods; else none."""
        known = self._known.parameters
        if isinstance(function, ast.Name):
            return known.get(function.id, ())
        if isinstance(function, ast.Attribute) and self._is_self(function.value):
            return known.get(f"{self._owner}.{function.attr}", ())
        return ()

    def _is_self(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id == self._self


def _place(name: str | None, parameters: tuple[str, ...]) -> tuple[int, str]:
    """Keywords of own functions by the parameter's place, others after them in the order written."""
    if name is not None and name in parameters:
        return parameters.index(name), str(parameters.index(name))
    return len(parameters), str(name)
