"""The phylogenetic tree on one page: from left to right for up to 60 candidates, radial for any number."""

from collections import defaultdict
from math import cos, pi, sin
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from services.domain import lineage
from services.report.dataset import INK, MAP, SOFT, WIDTH, Dataset, Drawing, missing, name_of, plain

MAX_NAMED = 60
CHARACTERS = 100
"""That fit in the width of the tree: an inner node has those of one generation."""
LEAST_NODES = 3
NAMED = 20
LINES = 26  # names that fit into a column beside the radial tree
Point = tuple[float, float]
Children = dict[str, list[str]]


def tree(data: Dataset) -> Drawing:
    """Generations from left to right, every candidate named."""
    name, title = "figure-3-tree", "Figure 3 · Phylogenetic tree"
    if not LEAST_NODES <= len(data.records) <= MAX_NAMED:
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
        label, inner = name_of(record), bool(children[record.id])
        if inner and len(label) > room:
            label = f"{label[: room - 1]}…"  # a child may stand to the right
        over_edges = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.5} if inner else None
        axes.annotate(label, points[record.id], xytext=(4, 4) if inner else (7, 0), textcoords="offset points",
                      va="bottom" if inner else "center", fontsize=7, color=INK, bbox=over_edges)  # fmt: skip
    axes.set_xlim(-0.2, max(depth.values()) + 1.6)
    axes.invert_yaxis()
    plain(axes, "x")
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("generation")
    axes.spines[["left"]].set_visible(False)
    return Drawing(name, title, "Coloured by fitness; hollow: not scored.", figure, *_cells(data))


def radial_tree(data: Dataset) -> Drawing:
    """Every candidate around the root; each branch keeps a sector, the best twenty are named."""
    name, title = "figure-5-radial", "Figure 5 · Radial tree"
    if len(data.records) < LEAST_NODES:
        return missing(name, title, "fewer than three candidates")
    parents = _parents(data)
    children, depth = lineage.children(parents), lineage.depths(parents)
    roots = lineage.roots(parents)
    _heaviest_in_the_middle(roots, parents, children)
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
    figure = Figure(figsize=(WIDTH, WIDTH * 0.58), layout="constrained")
    axes = figure.add_subplot()
    many = len(order) > 300
    axes.add_collection(PathCollection(edges, facecolors="none", edgecolors=SOFT, linewidths=0.4 if many else 1,
                                       alpha=0.6, transform=axes.transData))  # fmt: skip
    _dots(figure, axes, data, points, 5 if many else 30)
    outer = max(radius.values()) or 1.0
    best = [record for record in data.ranked if record.id in angle][:NAMED]
    for side in (-1, 1):
        named = [record for record in best if (points[record.id][0] >= 0) == (side > 0)]
        named.sort(key=lambda record: points[record.id][1])
        heights = _spread([points[record.id][1] for record in named], 2 * outer / LINES, outer)
        for record, height in zip(named, heights, strict=True):
            x, y = points[record.id]
            axes.plot([x, side * outer * 1.06, side * outer * 1.12], [y, height, height], color=SOFT, lw=0.5, zorder=1)
            axes.annotate(name_of(record)[:28], (side * outer * 1.12, height), xytext=(2 * side, 0),
                          textcoords="offset points", fontsize=7, color=INK, ha="left" if side > 0 else "right",
                          va="center")  # fmt: skip
    axes.set_xlim(-outer * 1.55, outer * 1.55)
    axes.set_ylim(-outer * 1.03, outer * 1.03)
    axes.set_axis_off()
    axes.set_aspect("equal")
    caption = (
        f"{len(order)} candidates, {max(depth.values())} generations; the distance from the middle is the generation, "
        f"each branch keeps a sector. Coloured by fitness; hollow: not scored; named: the best {len(best)}."
    )
    return Drawing(name, title, caption, figure, *_cells(data))


def _polar(radius: float, angle: float) -> Point:
    return radius * sin(angle), radius * cos(angle)


def _spread(heights: list[float], distance: float, limit: float) -> list[float]:
    """Ascending heights within ±limit, moved until neighbours are `distance` apart."""
    places: list[float] = []
    for place, height in enumerate(heights):
        after = (len(heights) - 1 - place) * distance
        lowest = places[-1] + distance if places else -limit
        places.append(max(lowest, min(height, limit - after)))
    return places


def _parents(data: Dataset) -> dict[str, str | None]:
    """Each candidate's parent; None if the run does not have it."""
    ids = {record.id for record in data.records}
    return {record.id: record.proposal.parent if record.proposal.parent in ids else None for record in data.records}


def _order(roots: list[str], parents: lineage.Parents, children: Children) -> list[str]:
    """Parents before children, depth first."""
    return [node for root in roots for node in lineage.subtree(parents, root, children)]


def _heaviest_in_the_middle(roots: list[str], parents: lineage.Parents, children: Children) -> None:
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
