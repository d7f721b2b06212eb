"""Parsing of untrusted programs, with limits that keep it fast."""

import ast
import threading

MOST_BYTES = 256 << 10
MOST_DEPTH = 200
"""The maximum nesting of nodes: three recursions per node stay below Python's limit of 1000."""
MOST_BRACES = 4000
"""Python 3.11 parses a text with many replacement fields in quadratic time: 9 s for 60,000."""
_TOO_DEEP = f"the program is nested too deeply: {MOST_DEPTH} levels of expressions and blocks are allowed"

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
    if size > MOST_BYTES:
        raise Unreadable(f"the program has {size} bytes; {MOST_BYTES} are allowed")
    if "\0" in program:
        raise Unreadable("the text holds a null byte", program.count("\n", 0, program.index("\0")) + 1)
    if program.count("{") > MOST_BRACES:
        raise Unreadable(f"the program has more than {MOST_BRACES} opening braces")
    try:
        with _parsing:
            tree = ast.parse(program)
    except SyntaxError as error:
        raise Unreadable(error.msg, error.lineno) from error
    except (RecursionError, MemoryError) as error:
        raise Unreadable(_TOO_DEEP) from error
    return tree


def require_shallow(tree: ast.Module) -> None:
    """Raises Unreadable where nodes are nested more than MOST_DEPTH deep."""
    stack: list[tuple[ast.AST, int]] = [(tree, 0)]
    while stack:
        node, depth = stack.pop()
        if depth > MOST_DEPTH:
            raise Unreadable(_TOO_DEEP, getattr(node, "lineno", None))
        stack += [(child, depth + 1) for child in ast.iter_child_nodes(node)]
