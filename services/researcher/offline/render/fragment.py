"""What one choice of a description contributes to the program."""

from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import dedent, indent


@dataclass(frozen=True)
class Fragment:
    """Imports, helper functions and lines of code of one choice.

    `construct` goes into `__init__`, `forward` into `forward`, each as a block that is dedented on assembly;
    `helpers` names functions of `helpers.HELPERS`; `arguments` are extra constructor arguments with defaults.
    """

    construct: str = ""
    forward: str = ""
    imports: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


def block(parts: Iterable[str], depth: int) -> str:
    """Join code blocks, indented by `depth` levels; empty ones vanish."""
    return "\n".join(indent(dedent(part).strip("\n"), "    " * depth) for part in parts if part.strip())


def unique(items: Iterable[str]) -> list[str]:
    """The items in order of first appearance."""
    return list(dict.fromkeys(items))
