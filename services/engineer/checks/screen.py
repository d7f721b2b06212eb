# ruff: noqa: SIM905 - long lists of names are easier to read without quotes
"""The static screen: what a program may import and name, decided on its syntax tree before anything runs.

It gives clear error messages. It is not a security boundary, which is the sandbox: names can be obfuscated.
"""

import ast
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict

from services.domain.syntax import MAX_BYTES, Unreadable, parse, require_shallow
from services.engineer.checks.report import JSON, Finding
from services.sandbox import Channel, ChildError, Limits, Sandbox
from services.sandbox.wire import escaped

_LIMITS = Limits(memory_bytes=1 << 30, cpu_seconds=10, wall_seconds=20)

ALLOWED_IMPORTS = frozenset(
    """
    __future__ abc cmath collections contextlib copy dataclasses einops enum fla functools itertools logging math
    numbers operator torch transformers.activations transformers.cache_utils transformers.processing_utils
    transformers.utils typing typing_extensions warnings
    """.split()
)
"""A module may be imported if it or one of its parents is listed here, and none of them in FORBIDDEN_MODULES."""
ONLY_THESE = {
    "operator": frozenset("add and_ floordiv itemgetter matmul mul neg not_ or_ pow sub truediv xor".split()),
    "transformers.activations": frozenset({"ACT2FN"}),
    "transformers.cache_utils": frozenset({"Cache"}),
    "transformers.processing_utils": frozenset({"Unpack"}),
    "transformers.utils": frozenset({"logging"}),
}
"""Modules from which only some names may be imported."""
ABSENT = frozenset("apex causal_conv1d deepspeed fast_transformers flash_attn mamba_ssm xformers".split())
"""Libraries that programs use where they are installed, and may import in a `try` that catches the ImportError, which
they raise here. Not jax: scipy takes any entry of that name in sys.modules for the library."""
OPTIONAL = ABSENT | {"triton"}
"""Libraries that programs may import so; Triton, which torch may need itself, is absent for programs only."""
OPTIONAL_NAMES = {"transformers.modeling_utils": frozenset({"_init_weights"})}
"""Names that fla's layers import in such a `try`, too: a flag that recent versions of transformers lack."""
UNUSED = frozenset(
    """
    argparse ast bisect csv datetime gc glob hashlib heapq inspect io json numpy operator os pathlib pickle
    platform pprint queue random re shutil string struct subprocess sys tempfile textwrap threading time timeit
    traceback types unittest uuid weakref
    """.split()
)
"""Modules loaded in every child, which a program may import without using them, as in a copied header."""
NUMBERS = frozenset("ceil e exp floor float32 float64 inf int64 log log10 log1p log2 nan ndarray pi prod sqrt".split())
"""What a program may use of numpy: constants, functions of numbers, and types in annotations."""
ATTRIBUTES = {"numpy": NUMBERS, "operator": ONLY_THESE["operator"]}
"""Modules that may be imported as a whole if only some attributes are used."""
PLAIN_SCRIPTING = frozenset(
    f"torch.jit.{name}" for name in ("Final", "annotate", "export", "ignore", "is_scripting", "script", "unused")
)
"""Replaced, or without effect, when a program is loaded, so that it runs in plain Python."""
REWRITE = "rewrite the program in PyTorch"
INSTEAD = {
    "__dict__": "call setattr or getattr with a literal name",
    "apex": "keep the path in plain torch, and remove the import or catch its ImportError",
    "causal_conv1d": "use ShortConvolution of fla.modules, or nn.Conv1d with padding on the left",
    "flash_attn": "use torch.nn.functional.scaled_dot_product_attention",
    "mamba_ssm": "keep the path in plain torch, and remove the import or catch its ImportError",
    **dict.fromkeys(("flax", "jax", "keras", "mlx", "tensorflow"), REWRITE),
    "importlib": "remove what uses it, as no other library can be loaded here",
    "numpy": "use torch's functions, such as torch.linspace and torch.tensor; np.pi and np.sqrt may stay",
    "os": "remove what uses it, as variables and files of the machine have no effect here",
    "random": "use torch's random functions, which are seeded",
    "scipy": "use torch's functions, such as torch.linalg and torch.special",
    "sys": "remove what uses it",
    "time": "remove what uses it, as a program must not depend on the clock",
    "torch._dynamo": "remove what uses it; torch.compile and torch.compiler may stay",
    "torch.distributed": "remove what uses it, as a program runs in one process",
    "torch.jit": "write @torch.jit.script, which is ignored here",
    "torch.utils._pytree": "call the function on each tensor of the tuple or dictionary",
    "transformers": "take the sizes as arguments of __init__ or from a dataclass of the program, and return the tensor",
    "torch._higher_order_ops": "write the scan in plain torch, by cumsum or in steps of doubling distance",
    "triton": "call fla's kernels, or write plain torch; an import that catches its ImportError may stay",
}
"""What to write instead of some modules."""
PURE_MODULES = frozenset({"F", "nn.functional", "torch.nn.functional"})
"""Modules of tensor functions, on which getattr may take a name that is only known at run time."""
FORBIDDEN_MODULES = frozenset(
    """
    logging.config logging.handlers torch.classes torch.cuda.memory torch.distributed torch.export torch.hub
    torch.jit torch.library torch.load torch.multiprocessing torch.onnx torch.ops torch.optim torch.overrides
    torch.package torch.save torch.serialization torch.storage torch.utils.cpp_extension
    torch.utils.dlpack torch.utils.model_zoo torch.utils.tensorboard
    """.split()
)
"""Also forbidden as dotted names, since `import torch` makes them accessible."""
FORBIDDEN_NAMES = frozenset("breakpoint compile eval exec exit globals locals open quit vars".split())
FORBIDDEN_ATTRIBUTES = frozenset(
    """
    FileHandler ForwardRef _C builtins cr_frame ctypes data_ptr dump dumps f_back f_builtins f_globals f_locals
    from_file func_globals get_type_hints gi_code gi_frame importlib multiprocessing os pickle set_default_device
    set_default_dtype set_default_tensor_type set_num_interop_threads set_num_threads set_rng_state share_memory_ socket
    subprocess sys tb_frame threading tofile
    """.split()
)
"""Attributes of any object that lead to the interpreter, files or the process."""
ALLOWED_DUNDERS = frozenset(
    """
    __all__ __annotations__ __author__ __call__ __class__ __constants__ __copyright__ __credits__ __dataclass_fields__
    __date__ __doc__ __email__ __enter__ __eq__ __exit__ __getattr__ __getitem__ __init__ __init_subclass__ __iter__
    __len__ __license__ __main__ __maintainer__ __name__ __post_init__ __qualname__ __repr__ __setattr__ __slots__
    __status__ __version__
    """.split()
)


async def screen_apart(program: str, sandbox: Sandbox) -> Finding:
    """Run `screen` in a child, since a text may crash or stall Python's parser. Raises SandboxUnavailable."""
    if len(program.encode(errors="replace")) > MAX_BYTES:
        return Finding(True, f"the program has more than {MAX_BYTES} bytes", {"limit": MAX_BYTES})
    try:
        async with sandbox.child(f"{__name__}:run", _LIMITS) as child:
            await child.send("screen", {"program": program})
            answer = await child.receive(2 * _LIMITS.wall_seconds)  # it ends at its limit
    except ChildError as error:
        return Finding(True, f"the program could not be parsed: {error.reason}", {"log": error.log_tail[-2000:]})
    return Finding.from_json(answer.header)


def run(channel: Channel) -> None:
    """The child's job. It does not execute the program, so its answer can be trusted."""
    channel.send("screened", asdict(screen(str(channel.receive().header["program"]))))


def screen(program: str) -> Finding:
    """Parse the program and look for forbidden constructs.

    Does not detect: access through strings, containers or values computed at run time.
    """
    try:
        tree = parse(program)
        require_shallow(tree)
    except Unreadable as error:
        return Finding(True, f"does not parse: {error}", {} if error.line is None else {"line": error.line})
    objections = sorted(_objections(tree), key=lambda objection: (REWRITE not in objection[1], objection[0]))
    if not objections:
        return Finding(False, "nothing forbidden in the source")
    evidence: list[JSON] = [{"line": line, "reason": reason} for line, reason in objections[:20]]
    line, reason = objections[0]
    return Finding(True, f"line {line}: {reason}", {"objections": evidence, "line": line})


def _objections(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The lines of forbidden constructs, and the reasons."""
    imported, executed = set(_imported_modules(tree)), list(_executed(tree))
    accepted = {*_optional_imports(tree), *_unused_imports(executed)}
    for node in executed:
        if node in accepted:
            continue
        if any(getattr(node, field, None) == "__name__" for field in _BINDING_FIELDS):
            yield getattr(node, "lineno", 0), "__name__ is not allowed as a name of your own"
        if rule := _RULES.get(type(node)):
            for reason in rule(node, imported):
                yield getattr(node, "lineno", 0), reason


_BINDING_FIELDS = ("arg", "asname", "name", "rest")
"""Where an argument, import, function, class, handler or pattern has the name that it binds."""


def _executed(tree: ast.Module) -> Iterator[ast.AST]:
    """All nodes except those that never run, as a program is not the main module, and the `torch.jit` of decorators.

    Only a condition on `__name__` among the module's own statements is known to be false, as no rule lets a program
    bind that name there; a class may be given a namespace of its own.
    """
    remaining: list[ast.AST] = []
    for statement in tree.body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "__name__ == '__main__'":
            remaining += statement.orelse
        else:
            remaining.append(statement)
    while remaining:
        node = remaining.pop()
        yield node
        if not (isinstance(node, ast.Attribute) and _dotted(node) in PLAIN_SCRIPTING):
            remaining += ast.iter_child_nodes(node)


def _optional_imports(tree: ast.Module) -> Iterator[ast.AST]:
    """Imports of OPTIONAL libraries and OPTIONAL_NAMES in the body of a `try` that catches their absence."""
    for attempt in ast.walk(tree):
        if isinstance(attempt, ast.Try) and any(map(_catches_absence, attempt.handlers)):
            for statement in attempt.body:
                yield from filter(_is_optional_import, ast.walk(statement))


def _is_optional_import(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return all(alias.name.split(".")[0] in OPTIONAL for alias in node.names)
    if not isinstance(node, ast.ImportFrom) or node.level:
        return False
    module, names = node.module or "", {alias.name for alias in node.names}
    return module.split(".")[0] in OPTIONAL or names <= OPTIONAL_NAMES.get(module, frozenset())


def _catches_absence(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
    return any(kind is None or (isinstance(kind, ast.Name) and kind.id in names) for kind in caught)


def _unused_imports(executed: list[ast.AST]) -> Iterator[ast.AST]:
    """Imports of UNUSED modules whose names do not occur, or of which only ATTRIBUTES are used."""
    names = [node.id for node in executed if isinstance(node, ast.Name)]
    attributes: dict[str, list[str]] = defaultdict(list)
    for node in executed:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            attributes[node.value.id].append(node.attr)

    def harmless(module: str, name: str) -> bool:
        used = [attribute for attribute in attributes[name] if attribute in ATTRIBUTES.get(module, ())]
        return module.split(".")[0] in UNUSED and names.count(name) == len(used)

    attributes_of_classes = {node for kind in executed if isinstance(kind, ast.ClassDef) for node in _own_scope(kind)}
    for node in executed:
        if node in attributes_of_classes:
            continue
        if isinstance(node, ast.ImportFrom) and (module := node.module or "").split(".")[0] in UNUSED:
            allowed = ATTRIBUTES.get(module, frozenset[str]())
            bound = {alias.asname or alias.name for alias in node.names if alias.name not in allowed}
            if not node.level and not bound & {"*", *names}:
                yield node
        elif isinstance(node, ast.Import):
            added = [alias for alias in node.names if alias.name not in ALLOWED_IMPORTS - UNUSED]
            if added and all(harmless(alias.name, alias.asname or alias.name.split(".")[0]) for alias in added):
                yield node


def _own_scope(kind: ast.ClassDef) -> Iterator[ast.AST]:
    """The nodes of a class body whose names become attributes of the class, which need no name to be used."""
    stack: list[ast.AST] = list(kind.body)
    while stack:
        yield (node := stack.pop())
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            stack += ast.iter_child_nodes(node)


def _imported_modules(tree: ast.Module) -> Iterator[str]:
    """Names bound to modules by import statements (torch, nn, F, math …)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module in {"torch", "torch.nn", "torch.utils"}:
            yield from (alias.asname or alias.name for alias in node.names if alias.name.islower())


def _import(node: ast.Import, _: set[str]) -> Iterator[str]:
    for alias in node.names:
        if alias.name in ONLY_THESE:
            yield f"import what is needed from {alias.name} by name"
        yield from _module(alias.name)


def _import_from(node: ast.ImportFrom, _: set[str]) -> Iterator[str]:
    if node.level:
        yield "relative imports are not possible: a program is one file, so copy what it uses into it"
        return
    module = node.module or ""
    if reasons := list(_module(module)):
        yield from reasons
        return
    for alias in node.names:
        forbidden = f"{module}.{alias.name}" in FORBIDDEN_MODULES or alias.name in FORBIDDEN_ATTRIBUTES
        if alias.name == "*":
            yield f"import what is needed from {module} by name, not *"
        elif forbidden or alias.name not in ONLY_THESE.get(module, {alias.name}):
            yield f"import of {module}.{alias.name} is not allowed{_remedy(f'{module}.{alias.name}')}"


def _module(name: str) -> Iterator[str]:
    parts = name.split(".")[:8]  # longer than any listed module
    prefixes = {".".join(parts[: end + 1]) for end in range(len(parts))}
    if (
        prefixes & FORBIDDEN_MODULES
        or not (prefixes - (ONLY_THESE.keys() - {name})) & ALLOWED_IMPORTS
        or any(part.startswith("_") for part in parts[1:])
    ):
        allowed = "the public parts of torch, einops, fla, and standard modules such as math, typing and functools"
        listed = max(prefixes & INSTEAD.keys(), key=len, default="")
        advice = INSTEAD.get(listed, f"a program may use {allowed}; copy what else it uses into it")
        yield f"import of {escaped(name, 80)} is not allowed: {advice}"


def _name(node: ast.Name, imported: set[str]) -> Iterator[str]:
    renames_module = node.id == "__name__" and not isinstance(node.ctx, ast.Load)
    if node.id in FORBIDDEN_NAMES - imported or _is_forbidden_dunder(node.id) or renames_module:
        plain = node.id in FORBIDDEN_NAMES
        hint = ": rename a variable of that name, or remove the call" if plain else _remedy(node.id)
        yield f"{node.id} is not allowed{hint}"


def _attribute(node: ast.Attribute, imported: set[str]) -> Iterator[str]:
    path = _dotted(node)
    if path in FORBIDDEN_MODULES:
        yield f"{path} is not allowed{_remedy(path)}"
    elif node.attr in FORBIDDEN_ATTRIBUTES or _is_forbidden_dunder(node.attr):
        yield f".{escaped(node.attr, 80)} is not allowed{_remedy(node.attr)}"
    elif isinstance(node.ctx, ast.Store | ast.Del) and path and path.split(".")[0] in imported:
        yield f"{path} belongs to a library and must not be changed: remove the line"


def _call(node: ast.Call, imported: set[str]) -> Iterator[str]:
    if not (isinstance(node.func, ast.Name) and node.func.id in {"setattr", "delattr", "getattr"} and node.args):
        return
    target = _dotted(node.args[0])
    if node.func.id != "getattr" and target and target.split(".")[0] in imported:
        yield f"{target} belongs to a library and must not be changed: remove the line"
    attribute = node.args[1] if len(node.args) > 1 else None
    if isinstance(attribute, ast.Constant) and isinstance(attribute.value, str):
        yield from _attribute(ast.Attribute(node.args[0], attribute.value, ast.Load()), imported)
    elif target and target.split(".")[0] in imported and target not in PURE_MODULES:
        yield f"{node.func.id} on {target} needs a literal name"


def _remedy(name: str) -> str:
    return f": {INSTEAD.get(name, 'remove what uses it')}"


def _is_forbidden_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__") and len(name) > 4 and name not in ALLOWED_DUNDERS


def _dotted(node: ast.expr) -> str:
    """The dotted name of an expression such as `torch.nn.functional`; empty for anything else."""
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
