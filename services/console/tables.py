"""Text for a terminal of any width: numbers, tables, trees. Absent values are shown as a dash.

Tables are plain lines instead of rich's: two thousand candidates take 20 ms, and `| head` can end the output.
"""

import os
import re
import shutil
import sys
import textwrap
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from unicodedata import combining, east_asian_width

import typer

from services.chassis.errors import printable
from services.report.rows import ABSENT, Node, Row, interval_text, number

MIN_NAME = 24
MIN_SHORTENED_NAME = 8
MIN_HEAD = 6  # of a deep branch: an ellipsis, its depth and a space
GAP = "  "
_STYLES = re.compile(r"(\x1b\[(?:[0-2]|3[0-7])m)")
"""What `styled` adds to a text."""


def width() -> int:
    """Columns of the terminal, or of COLUMNS."""
    return shutil.get_terminal_size((80, 24)).columns


def in_colour() -> bool:
    """Whether standard output is a terminal with colours."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def styled(text: str, **style: bool | str) -> str:
    """The text in bold=True, dim=True or fg="red", if the terminal has colours."""
    return typer.style(printable(text), **style) if in_colour() else text  # type: ignore[arg-type]


def say(text: str = "") -> None:
    """Print lines on standard output, without control characters that names and prose of candidates may hold."""
    styled_parts = _STYLES.split(text) if in_colour() else [text]
    typer.echo("".join(part if index % 2 else printable(part) for index, part in enumerate(styled_parts)))


def paragraph(text: str, indent: int = 0, first: str = "") -> str:
    """Text wrapped to the terminal; its own line breaks remain."""
    space = " " * indent
    lines = text.splitlines() or [""]
    return "\n".join(
        textwrap.fill(
            line, max(width(), indent + 20), initial_indent=first if index == 0 else space, subsequent_indent=space,
            break_long_words=False, break_on_hyphens=False,
        )
        for index, line in enumerate(lines)
    )  # fmt: skip


def print_code(text: str, language: str, wrap: bool = False) -> None:
    """A program or a diff, highlighted on a terminal; whole lines elsewhere, which `patch` can read."""
    if in_colour():
        from rich.console import Console
        from rich.syntax import Syntax

        Console(highlight=False).print(Syntax(printable(text), language, background_color="default", word_wrap=wrap))
    elif sys.stdout.isatty():
        say(text.removesuffix("\n"))
    else:
        typer.echo((text if text.endswith("\n") else f"{text}\n").encode(), nl=False)  # a file, whatever the locale


def print_markdown(text: str, plain: str) -> None:
    """Markdown on a terminal, `plain` elsewhere. The address of a link is printed: its text may name another."""
    if in_colour():
        from rich.console import Console
        from rich.markdown import Markdown

        Console(highlight=False, width=width()).print(Markdown(printable(text), hyperlinks=False))
    else:
        say(plain)


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values, one pair per line; long values are wrapped beside their name."""
    rows = list(rows)
    indent = max(len(name) for name, _ in rows) + len(GAP)
    return "\n".join(
        styled(name.ljust(indent), dim=True) + paragraph(value, indent, " " * indent)[indent:] for name, value in rows
    )


@dataclass
class Column:
    """A column of a table. On a narrow terminal a `flexible` one shrinks first, to 24 characters; then columns of the
    highest `rank` are left out, those of rank 0 never."""

    title: str
    cells: Sequence[str]
    right: bool = False
    flexible: bool = False
    rank: int = 0

    @property
    def width(self) -> int:
        return max(len(self.title), *(columns_of(cell) for cell in self.cells)) if self.cells else len(self.title)


def table(columns: Sequence[Column], dim: Sequence[bool] = ()) -> str:
    """Lines that fit the terminal. Columns without any value are left out, unless they have rank 0."""
    shown = [column for column in columns if not column.rank or any(cell not in (ABSENT, "") for cell in column.cells)]
    while (excess := _excess(shown, MIN_NAME)) > 0 and any(column.rank for column in shown):
        shown.remove(max(shown, key=lambda column: column.rank))
    excess = _excess(shown, MIN_SHORTENED_NAME if excess > 0 else MIN_NAME, full_size=True)
    widths = []
    for column in shown:
        minimum = min(column.width, MIN_SHORTENED_NAME)
        widths.append(max(minimum, column.width - excess) if column.flexible and excess > 0 else column.width)
    head = GAP.join(_cell(column.title, column, size) for column, size in zip(shown, widths, strict=True))
    lines = [styled(head.rstrip(), bold=True), styled(GAP.join("─" * size for size in widths), dim=True)]
    for index, cells in enumerate(zip(*(column.cells for column in shown), strict=True)):
        line = GAP.join(_cell(cell, column, size) for cell, column, size in zip(cells, shown, widths, strict=True))
        line = line.rstrip()
        lines.append(styled(line, dim=True) if dim and dim[index] else line)
    return "\n".join(lines)


def _excess(columns: Sequence[Column], min_name: int, full_size: bool = False) -> int:
    """Characters by which a table is too wide with its flexible column shrunk, or at full size."""
    sizes = [min(column.width, min_name) if column.flexible and not full_size else column.width for column in columns]
    return sum(sizes) + len(GAP) * (len(sizes) - 1) - width()


def _cell(text: str, column: Column, size: int) -> str:
    text = fitted(_one_line(text), size)
    space = " " * (size - columns_of(text))
    return space + text if column.right else text + space


def columns_of(text: str) -> int:
    """The columns that a line takes: letters of East Asian scripts and pictograms take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(letter) else 1 + (east_asian_width(letter) in "WF") for letter in text)


def fitted(text: str, size: int) -> str:
    """A line, cut with an ellipsis to at most `size` columns."""
    if columns_of(text) <= size:
        return text
    while text and columns_of(text) > size - 1:
        text = text[: min(len(text) - 1, size)]
    return f"{text}…"


def _one_line(text: str) -> str:
    """The text as it is printed, with a space for each line break and tab."""
    return "".join(" " if character.isspace() else character for character in printable(text))


def listing(rows: Sequence[Row], objectives: Collection[str] = ()) -> str:
    """Candidates in the order given; the columns of a run's objectives are left out last."""
    intervals = [interval_text(row["fitness_low"], row["fitness_high"], ".3f") for row in rows]
    sizes = [ABSENT if row["parameters"] is None else f"{row['parameters']:,}" for row in rows]
    states = [row["state"] for row in rows]
    return table(
        [
            Column("id", [row["id"] for row in rows]),
            *([Column("front", ["●" if row["front"] else "" for row in rows])] if objectives else []),
            Column("name", [row["name"] or ABSENT for row in rows], flexible=True),
            Column("loss", [number(row["loss"]) for row in rows], right=True, rank=1),
            Column("fitness", [number(row["fitness"], ".3f") for row in rows], right=True),
            Column("[95 %]", intervals, rank=8),
            Column("Δ root", [number(row["loss_difference"], "+.4f") for row in rows], right=True, rank=7),
            Column("bench", [number(row["benchmark"], ".3f") for row in rows], right=True, rank=4),
            Column("judge", [number(row["judge"], ".1f") for row in rows], right=True, rank=5),
            Column("parent", [row["parent"] or ABSENT for row in rows], rank=3),
            Column("state", states if set(states) - {"archived"} else [""] * len(rows), rank=2),
            Column("params", sizes, right=True, rank=1 if "parameters" in objectives else 9),
            *(
                Column(title, [number(row[key], ",.0f") for row in rows], right=True, rank=1)  # type: ignore[literal-required]
                for name, title, key in (
                    ("flops", "flops", "flops"),
                    ("speed", "tok/s", "speed"),
                    ("memory", "bytes", "memory"),
                    ("state", "kept", "state_size"),
                )
                if name in objectives
            ),
            Column("s", [number(row["seconds"], ".0f") for row in rows], right=True, rank=6),
        ],
        dim=[row["fitness"] is None for row in rows],
    )


def family(nodes: Sequence[Node]) -> str:
    """The phylogenetic tree, one line per candidate, children best first."""
    children: defaultdict[str | None, list[Node]] = defaultdict(list)
    ids = {node["id"] for node in nodes}
    for node in nodes:
        children[node["parent"] if node["parent"] in ids else None].append(node)
    id_width = max((len(node["id"]) for node in nodes), default=0)
    room = max(width() - id_width - 20, MIN_HEAD + MIN_SHORTENED_NAME)
    lines = [styled(f"{'name'.ljust(room)}{GAP}{'id'.ljust(id_width)}{GAP}{'fitness':>7}{GAP}{'loss':>7}", bold=True)]
    stack = [(node, "", "") for node in _best_first(children[None])]
    while stack:
        node, head, below = stack.pop()
        lines.append(_branch(node, head, room, id_width))
        own = _best_first(children[node["id"]])
        stack += [(child, below + ("├ " if index else "└ "), below + ("│ " if index else "  "))
                    for index, child in enumerate(own)]  # fmt: skip
    return "\n".join(lines)


def _best_first(nodes: Sequence[Node]) -> list[Node]:
    """Best last, as on a stack."""
    return sorted(nodes, key=lambda node: (node["fitness"] is None, -(node["fitness"] or 0.0)))[::-1]


def _branch(node: Node, head: str, room: int, ids: int) -> str:
    max_width = max(MIN_HEAD, room - MIN_NAME)  # a deep branch is drawn with its depth instead of all of its lines
    if len(head) > max_width:
        depth = f"{len(head) // 2}"
        head = f"{head[: max(0, max_width - len(depth) - 3)]}…{depth} "
    name = _one_line(node["name"] or ABSENT)
    name = fitted(name, room - len(head))
    numbers = node["state"].rjust(16)
    if node["fitness"] is not None:
        numbers = f"{number(node['fitness'], '.3f'):>7}{GAP}{number(node['loss']):>7}"
    name += " " * (room - len(head) - columns_of(name))
    line = f"{styled(head, dim=True)}{name}{GAP}{node['id'].ljust(ids)}{GAP}"
    return line + (styled(numbers, dim=True) if node["fitness"] is None else numbers)


def mixed_conditions(rows: Sequence[Row]) -> str | None:
    """A warning if these rows were trained in different precision, or those of a stage on different text."""
    precisions = Counter(row["precision"] for row in rows if row["precision"])
    if len(precisions) > 1:
        parts = ", ".join(f"{count} in {precision}" for precision, count in precisions.most_common())
        return f"trained in different precision ({parts}): only numbers of the same precision can be compared"
    texts = Counter((row["stage"], row["text"]) for row in rows if row["text"])
    if len(texts) > len({stage for stage, _ in texts}):
        parts = ", ".join(f"{count} on {(text or '')[:8]}" for (_, text), count in texts.most_common())
        return (
            f"measured on different text ({parts}): only numbers on the same text can be compared, so engineers need "
            "the same corpus and ASI_ENGINEER_TEXT_SEED"
        )
    return None


def rejections(rows: Sequence[Row]) -> list[str]:
    """The three most frequent reasons for rejections, for which a narrow table has no room."""
    counts = Counter(reason for row in rows if (reason := row["reason"]))
    return [f"{count} of {counts.total()} rejected: {reason}" for reason, count in counts.most_common(3)]
