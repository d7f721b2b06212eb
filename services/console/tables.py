"""Rows as tables and trees for a terminal of any width. What is absent is shown as a dash, never as a number."""

from collections import defaultdict
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from services.console.rows import Node, Row

ABSENT = "–"


def terminal() -> Console:
    """Where people read: standard output."""
    return Console(highlight=False)


def number(value: float | None, pattern: str = ".4f") -> str:
    """A number, or a dash where it is absent."""
    return ABSENT if value is None else format(value, pattern)


def ranking(rows: Sequence[Row]) -> Table:
    """Candidates best first: what a run ends with."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("#", justify="right")
    table.add_column("id", no_wrap=True)
    table.add_column("name", no_wrap=True, overflow="ellipsis", min_width=12)
    table.add_column("parent", no_wrap=True)
    for title in ("loss", "Δ root", "bench", "judge", "fitness", "s"):
        table.add_column(title, justify="right", no_wrap=True)
    for place, one in enumerate(rows, 1):
        scored = one["fitness"] is not None
        table.add_row(
            str(place) if scored else ABSENT,
            one["id"],
            escape(one["name"]),
            one["parent"] or ABSENT,
            number(one["loss"]),
            number(one["loss_difference"], "+.4f"),
            number(one["benchmark"], ".3f"),
            number(one["judge"], ".1f"),
            number(one["fitness"], ".3f") if scored else one["state"],
            number(one["seconds"], ".0f"),
            style=None if scored else "dim",
        )
    return table


def listing(rows: Sequence[Row]) -> Table:
    """Candidates in the order given, with state and size."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("id", "name", "parent", "stage", "state"):
        table.add_column(title, no_wrap=True, overflow="ellipsis", min_width=10 if title == "name" else None)
    for title in ("loss", "bench", "judge", "fitness", "parameters", "s"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in rows:
        table.add_row(
            one["id"], escape(one["name"]), one["parent"] or ABSENT, one["stage"], one["state"],
            number(one["loss"]), number(one["benchmark"], ".3f"), number(one["judge"], ".1f"),
            number(one["fitness"], ".3f"), ABSENT if one["parameters"] is None else f"{one['parameters']:,}",
            number(one["seconds"], ".0f"),
        )  # fmt: skip
    return table


def family(nodes: Sequence[Node], title: str) -> Tree:
    """The phylogenetic tree: roots first, children best first."""
    children: defaultdict[str | None, list[Node]] = defaultdict(list)
    known = {node["id"] for node in nodes}
    for node in nodes:
        children[node["parent"] if node["parent"] in known else None].append(node)
    tree = Tree(title)
    waiting: list[tuple[Tree, str | None]] = [(tree, None)]
    while waiting:
        branch, parent = waiting.pop()
        best_first = sorted(children[parent], key=lambda one: (one["fitness"] is None, -(one["fitness"] or 0.0)))
        waiting += [(branch.add(_leaf(node)), node["id"]) for node in best_first]
    return tree


def _leaf(node: Node) -> str:
    name = f"[bold]{escape(node['name'] or '?')}[/bold] [dim]{node['id']}[/dim]"
    if node["fitness"] is not None:
        return f"{name}  fitness {node['fitness']:.3f}  loss {number(node['loss'])}"
    return f"{name}  [dim]{node['state']}[/dim]"
