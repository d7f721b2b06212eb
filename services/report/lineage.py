"""Figures of descent: the phylogenetic tree of a run, effects of moves, and ablations."""

from collections import defaultdict
from collections.abc import Sequence
from math import cos, pi, sin
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from services.contracts import candidate_pb2 as pb
from services.domain import lineage
from services.domain.statistics import LEVEL, Interval
from services.mixers.moves import BY_NAME, LIBRARY
from services.report.comparisons import LUCK, MoveEffect, move_effects, part_row, parts
from services.report.dataset import ACCENT, GOOD, INK, MAP, SOFT, WIDTH, Dataset, Drawing, missing, spread, style_axes
from services.report.rows import bounds, label_of, name_of
from services.table import Table
from services.table.analysis import effects

MAX_NAMED, MAX_ROWS = 60, 30
CHARACTERS = 100
"""That fit in the width of the tree: an inner node has those of one generation."""
MAX_SHAPES = 2000
"""Beyond, edges are thinner, and the tree is drawn as pixels: 10,000 candidates take 4 MB in an SVG."""
MIN_NODES = 3
NAMED = 20
NAMES = 1.12  # where the names begin, in radii of the tree
COLOUR_BAR = 0.8  # inches
LINES = 22  # names that fit into a column beside the radial tree
Point = tuple[float, float]
Children = dict[str, list[str]]


def tree(data: Dataset) -> Drawing:
    """Generations from left to right, every candidate named."""
    name, title = "figure-3-tree", "Figure 3 · Phylogenetic tree"
    if not MIN_NODES <= len(data.records) <= MAX_NAMED:
        why = f"names have room for up to {MAX_NAMED} candidates; figure 5 shows all {len(data.records)}"
        return missing(name, title, why if len(data.records) > MAX_NAMED else "fewer than three candidates")
    parents = _parents(data)
    children, depth = lineage.children(parents), lineage.depths(parents)
    rows = _rows(children, _order(lineage.roots(parents), parents, children))
    points = {candidate: (float(depth[candidate]), row) for candidate, row in rows.items()}
    figure = Figure(figsize=(WIDTH, max(2.4, 0.24 * len(data.records))), layout="constrained")
    axes = figure.add_subplot()
    edges = [[points[parent], points[child]] for child, parent in parents.items() if parent is not None]
    axes.add_collection(LineCollection(edges, colors=SOFT, linewidths=1))
    _dots(figure, axes, data, points, 36)
    room = max(6, int(CHARACTERS / (max(depth.values()) + 1.8)))
    for record in data.records:
        label, inner = label_of(record), bool(children[record.id])
        if inner and len(label) > room:
            label = f"{label[: room - 1]}…"  # a child may stand to the right
        over_edges = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.5} if inner else None
        axes.annotate(label, points[record.id], xytext=(4, 4) if inner else (7, 0), textcoords="offset points",
                      va="bottom" if inner else "center", fontsize=7, color=INK, bbox=over_edges)  # fmt: skip
    axes.invert_yaxis()
    axes.set(xlim=(-0.2, max(depth.values()) + 1.6), yticks=[])
    style_axes(axes, "generation", grid="x")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["left"]].set_visible(False)
    return Drawing(name, title, "Coloured by fitness; hollow: not scored.", figure, *_cells(data))


def radial_tree(data: Dataset) -> Drawing:
    """Every candidate around the root; each branch keeps a sector, the best twenty are named."""
    name, title = "figure-5-radial", "Figure 5 · Radial tree"
    if len(data.records) < MIN_NODES:
        return missing(name, title, "fewer than three candidates")
    parents = _parents(data)
    children, depth = lineage.children(parents), lineage.depths(parents)
    roots = lineage.roots(parents)
    _centre_largest(roots, parents, children)
    order = _order(roots, parents, children)
    rows = _rows(children, order)
    leaves = sum(not children[candidate] for candidate in order)
    inner = 0.0 if len(roots) == 1 else 1.0
    angle = {candidate: 2 * pi * rows[candidate] / leaves for candidate in order}
    radius = {candidate: depth[candidate] + inner for candidate in order}
    points = {candidate: _polar(radius[candidate], angle[candidate]) for candidate in order}
    edges = []
    for child, parent in parents.items():
        if parent is not None:  # a cubic Bézier curve that leaves and arrives along a radius
            start, middle = angle[parent] if radius[parent] else angle[child], (radius[parent] + radius[child]) / 2
            corners = [points[parent], _polar(middle, start), _polar(middle, angle[child]), points[child]]
            edges.append(Path(corners, [Path.MOVETO, *[Path.CURVE4] * 3]))
    best = [record for record in data.ranked if record.id in angle][:NAMED]
    labels = {record.id: label_of(record, 25) for record in best}
    room = 0.1 + 0.06 * max(map(len, labels.values()), default=0)  # inches for a name, beside each half of the tree
    unit = (WIDTH - COLOUR_BAR - 2 * room) / (2 * NAMES)  # inches of its radius
    figure = Figure(figsize=(WIDTH, 2.1 * unit), layout="constrained", dpi=200)
    axes = figure.add_subplot()
    many = len(order) > 300
    width = 0.4 * min(1.0, MAX_SHAPES / len(order)) if many else 1  # else the edges of siblings are a filled area
    axes.add_collection(PathCollection(edges, facecolors="none", edgecolors=SOFT, linewidths=width, alpha=0.6,
                                       transform=axes.transData))  # fmt: skip
    _dots(figure, axes, data, points, 5 if many else 30)
    outer = max(radius.values()) or 1.0
    for side in (-1, 1):
        named = [record for record in best if (points[record.id][0] >= 0) == (side > 0)]
        named.sort(key=lambda record: points[record.id][1])
        heights = spread([points[record.id][1] for record in named], 2 * outer / LINES, outer)
        for record, height in zip(named, heights, strict=True):
            x, y = points[record.id]
            axes.plot([x, side * outer * 1.06, side * outer * NAMES], [y, height, height], color=SOFT, lw=0.5, zorder=1)
            axes.annotate(labels[record.id], (side * outer * NAMES, height), xytext=(2 * side, 0),
                          textcoords="offset points", fontsize=7, color=INK, ha="left" if side > 0 else "right",
                          va="center", in_layout=False)  # fmt: skip
    half = outer * (NAMES + room / unit)
    axes.set(xlim=(-half, half), ylim=(-outer * 1.03, outer * 1.03), aspect="equal")
    axes.set_axis_off()
    for shapes in axes.collections:
        shapes.set_rasterized(len(order) > MAX_SHAPES)
    caption = (
        f"{len(order)} candidates, {max(depth.values())} generations; the distance from the middle is the generation, "
        f"each branch keeps a sector. Coloured by fitness; hollow: not scored; named: the best {len(best)}."
    )
    return Drawing(name, title, caption, figure, *_cells(data))


def _polar(radius: float, angle: float) -> Point:
    return radius * sin(angle), radius * cos(angle)


def _parents(data: Dataset) -> dict[str, str | None]:
    """Each candidate's parent; None if the run does not have it."""
    ids = {record.id for record in data.records}
    return {record.id: record.proposal.parent if record.proposal.parent in ids else None for record in data.records}


def _order(roots: list[str], parents: lineage.Parents, children: Children) -> list[str]:
    """Parents before children, depth first."""
    return [node for root in roots for node in lineage.subtree(parents, root, children)]


def _centre_largest(roots: list[str], parents: lineage.Parents, children: Children) -> None:
    """Arrange siblings by the size of their subtrees, the largest in the middle."""
    sizes: defaultdict[str | None, int] = defaultdict(int)
    for node in reversed(_order(roots, parents, children)):
        sizes[node] += 1
        sizes[parents[node]] += sizes[node]
    for siblings in (roots, *children.values()):
        ordered = sorted(siblings, key=lambda node: -sizes[node])
        siblings[:] = [*reversed(ordered[1::2]), *ordered[::2]]


def _rows(children: Children, order: list[str]) -> dict[str, float]:
    """A row for every leaf, parents in the middle of theirs."""
    rows = {node: float(row) for row, node in enumerate(node for node in order if not children[node])}
    for node in reversed(order):
        if own := children[node]:
            rows[node] = fmean((min(rows[child] for child in own), max(rows[child] for child in own)))
    return rows


def _dots(figure: Figure, axes: Axes, data: Dataset, points: dict[str, Point], size: float) -> None:
    scored = sorted(data.scored, key=lambda record: record.verdict.fitness.value)
    unscored = [record.id for record in data.records if not record.verdict.HasField("fitness")]
    if unscored:
        xs, ys = zip(*(points[candidate] for candidate in unscored), strict=True)
        axes.scatter(xs, ys, s=size, color="white", edgecolors=SOFT, lw=0.8, zorder=2)
    if scored:
        values = [record.verdict.fitness.value for record in scored]
        xs, ys = zip(*(points[record.id] for record in scored), strict=True)
        low = values[len(values) // 20]
        dots = axes.scatter(xs, ys, s=size, c=values, cmap=MAP, vmin=low, vmax=values[-1], lw=0, zorder=3)
        bar = figure.colorbar(dots, ax=axes, label="fitness", shrink=0.45, aspect=24, pad=0.01)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)


def _cells(data: Dataset) -> tuple[tuple[str, ...], tuple[tuple[object, ...], ...]]:
    header = ("id", "parent", "name", "fitness", "loss", "state")
    return header, tuple(tuple(row[name] for name in header) for row in data.rows)  # type: ignore[literal-required]


def ablations(data: Dataset) -> list[Drawing]:
    """One drawing per ablated candidate, in the order of the run; without any, one that says so."""
    ablated = {record.request.ablation_of for record in data.records if record.kind == pb.KIND_ABLATION}
    drawings = [_ablation(record, data) for record in data.records if record.id in ablated]
    return drawings or [missing("ablations", "Ablations", "no candidate was ablated; run `asi-arch ablate CANDIDATE`")]


def _ablation(original: pb.Candidate, data: Dataset) -> Drawing:
    name, title = f"ablation-{original.id}", f"Ablation · Effects of the components of {name_of(original)}"
    components = parts(original, data.records)
    measured = [part for part in components if part.gain is not None]
    rows = [part_row(part) for part in components]
    if not measured:
        return missing(name, title, components[0].reason or "no ablation was measured yet")
    silent = any(part.gain is not None and part.gain.conclusion.endswith("this seed") for part in measured)
    covered = "do not cover other seeds, since none was trained" if silent else "include the scatter between seeds"
    caption = (
        "The rise of the held-out loss without the component (nats per token, same seeds), with 95 % intervals that "
        f"{covered}. An interval that contains zero shows no effect."
    )
    failed = [f"{part.component}: {part.reason}" for part in components if part.gain is None and part.reason]
    figure = Figure(figsize=(7.5, 0.42 * len(measured) + 1.1), layout="constrained")
    gains = [(part.component, part.gain.mean, part.gain.interval) for part in measured if part.gain]
    _forest(figure.add_subplot(), gains, "loss without it − loss with it (nats per token)", "")
    cells = tuple(tuple(row.values()) for row in rows)
    return Drawing(name, title, " ".join((caption, *failed)), figure, tuple(rows[0]), cells)


def _forest(axes: Axes, rows: Sequence[tuple[str, float, Interval]], x: str, title: str) -> None:
    """Names with a mean and its interval, the first on top; grey where the interval contains zero."""
    for row, (_, mean, interval) in enumerate(rows):
        colour = SOFT if interval.crosses_zero else ACCENT if mean > 0 else GOOD
        axes.plot([interval.low, interval.high], [row, row], color=colour, lw=2.2, solid_capstyle="round")
        axes.scatter([mean], [row], s=30, color=colour, zorder=3)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    style_axes(axes, x, title=title, grid="x")
    axes.spines[["left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def what_pays(data: Dataset) -> Drawing:
    """Every move with its gain and interval, from the run's ablations and proposals and from the table of mixers."""
    name, title = "what-pays", "Effects · The gain of each move"
    table = Table.load()
    moves = move_effects(data.records, data.ablated)
    moves += [
        MoveEffect("table", effect.move or f"{effect.dimension}: {effect.value or 'none'}", effect.pairs, effect.gain,
                   Interval(effect.low, effect.high, LEVEL))
        for effect in effects(table)
    ]  # fmt: skip
    titles = {
        "ablation": "Removed from candidates of this run",
        "proposal": "Children that differ from their parent by one move",
        "table": f"Table of mixers: {len(table.truth)} architectures at {table.scale}",
    }
    sources = [source for source in titles if any(effect.source == source for effect in moves)]
    if not sources:
        return missing(name, title, "no two programs differ by a single move")
    panels = [[effect for effect in moves if effect.source == source] for source in sources]
    heights = [min(len(panel), MAX_ROWS) + 2.5 for panel in panels]
    figure = Figure(figsize=(WIDTH, 0.23 * sum(heights) + 0.3), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, source, panel in zip(grid, sources, panels, strict=True):
        shown, cut = panel, ""
        if len(panel) > MAX_ROWS:
            shown = [*panel[: MAX_ROWS // 2], *panel[-MAX_ROWS // 2 :]]
            cut = f"; the first and the last of {len(panel)}"
        rows = [(f"{effect.move} ({effect.pairs})", effect.gain, effect.interval) for effect in shown]
        _forest(axes, rows, f"gain (nats per {'byte' if source == 'table' else 'token'})", titles[source] + cut)
    unclear = sum(effect.interval.crosses_zero for effect in moves)
    absent = len(LIBRARY) - len({effect.move for effect in moves} & set(BY_NAME))
    caption = (
        "The fall of the held-out loss with the move, with 95 % intervals; in brackets the number of pairs of "
        f"programs that differ by it alone. {unclear} of {len(moves)} intervals (grey) contain zero: they show no "
        "effect. The intervals are not corrected for their number: of as many moves without any effect "
        f"{0.05 * len(moves):.1f} would seem to have one. {LUCK} The table compares with DeltaNet's value of a part, "
        f"at a small scale. {absent} of {len(LIBRARY)} moves of the library are in no such pair."
    )
    cells = tuple(
        (effect.source, effect.move, effect.gain, *bounds(effect.interval), effect.pairs, effect.verdict)
        for effect in moves
    )
    header = ("from", "move", "gain", "low", "high", "pairs", "")
    return Drawing(name, title, caption, figure, header, cells, tabulated=True)
