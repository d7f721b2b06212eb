"""Rows as tables and trees for a terminal of any width. What is absent is shown as a dash, never as a number."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from services.console.rows import Node, Row

ABSENT = "–"
LEAST_NAME = 8
WIDE = 104  # columns from which there is room for intervals
DISPENSABLE = ("s", "params", "parent", "bench", "judge", "Δ root", "loss")
"""What a table gives up first where it does not fit: never the id, the name, the state or the fitness."""


def terminal() -> Console:
    """Where people read: standard output."""
    return Console(highlight=False)


def number(value: float | None, pattern: str = ".4f") -> str:
    """A number, or a dash where it is absent."""
    return ABSENT if value is None else format(value, pattern)


def ranking(rows: Sequence[Row]) -> Table:
    """Candidates best first: what a run ends with."""
    table = _table(("#", 2), ("id", 7), ("name", 0), ("parent", 7), ("loss", -6), ("Δ root", -7), ("bench", -5),
                   ("judge", -5), _fitness_column(8), ("s", -3))  # fmt: skip
    for place, one in enumerate(rows, 1):
        scored = one["fitness"] is not None
        table.add_row(
            str(place) if scored else ABSENT,
            one["id"],
            escape(one["name"] or ABSENT),
            one["parent"] or ABSENT,
            number(one["loss"]),
            number(one["loss_difference"], "+.4f"),
            number(one["benchmark"], ".3f"),
            number(one["judge"], ".1f"),
            _fitness(one) if scored else one["state"],
            number(one["seconds"], ".0f"),
            style=None if scored else "dim",
        )
    return _fitted(table)


def mixed_precision(rows: Sequence[Row]) -> str | None:
    """A sentence where these rows were trained in different precision: their order by loss means little then."""
    counts = Counter(one["precision"] for one in rows if one["precision"])
    if len(counts) < 2:
        return None
    parts = ", ".join(f"{count} in {precision}" for precision, count in counts.most_common())
    return f"trained in different precision ({parts}): only numbers of the same precision can be compared"


def listing(rows: Sequence[Row]) -> Table:
    """Candidates in the order given, with state and size."""
    table = _table(("id", 7), ("name", 0), ("parent", 7), ("state", 8), ("loss", -6), ("bench", -5),
                   ("judge", -5), _fitness_column(7), ("params", -9), ("s", -3))  # fmt: skip
    for one in rows:
        table.add_row(
            one["id"], escape(one["name"] or ABSENT), one["parent"] or ABSENT, one["state"],
            number(one["loss"]), number(one["benchmark"], ".3f"), number(one["judge"], ".1f"),
            _fitness(one), ABSENT if one["parameters"] is None else f"{one['parameters']:,}",
            number(one["seconds"], ".0f"),
        )  # fmt: skip
    return _fitted(table)


def _fitness_column(width: int) -> tuple[str, int]:
    return ("fitness [95 %]", -20) if terminal().width >= WIDE else ("fitness", -width)


def _fitness(one: Row) -> str:
    """With its interval where there is room and one was measured."""
    value = number(one["fitness"], ".3f")
    if one["fitness_low"] is None or one["fitness_high"] is None or terminal().width < WIDE:
        return value
    return escape(f"{value} [{one['fitness_low']:.3f}, {one['fitness_high']:.3f}]")


def _table(*columns: tuple[str, int]) -> Table:
    """Columns of a least width, right-aligned where negative; the one of width 0 gives way on a narrow terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    taken = sum(abs(width) + 2 for _, width in columns) + 1
    for title, width in columns:
        table.add_column(
            escape(title),
            justify="right" if width < 0 else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=abs(width) or LEAST_NAME,
            max_width=None if width else max(LEAST_NAME, terminal().width - taken),
        )
    return table


def _fitted(table: Table) -> Table:
    """Without the columns that there is no room for: the name is cut first, whole columns after it."""
    for title in DISPENSABLE:
        if sum((column.min_width or 0) + 2 for column in table.columns) <= terminal().width:
            break
        table.columns = [column for column in table.columns if column.header != title]
    for column in table.columns:
        if column.header == "name":
            others = sum((one.min_width or 0) + 2 for one in table.columns if one is not column)
            column.max_width = max(LEAST_NAME, terminal().width - others - 2)
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
