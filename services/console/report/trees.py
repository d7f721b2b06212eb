"""The phylogenetic tree on one page: radial for any number of candidates, with names along the way for a few."""

from collections import defaultdict
from math import cos, pi, sin
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from services.console.report.dataset import INK, MAP, SOFT, WIDTH, Dataset, Drawing, missing, name_of, plain

MOST_NAMED = 60
LEAST_NODES = 3
NAMED = 20
LINES = 26  # of names that have room in a column beside the radial tree
Children = dict[str | None, list[str]]


def trees(data: Dataset) -> list[Drawing]:
    """Figure 3 where every name has room, figure 5 for all."""
    return [tree(data), radial_tree(data)]


def tree(data: Dataset) -> Drawing:
    """Generations from left to right, every candidate named."""
    name, title = "figure-3-tree", "Figure 3 · Phylogenetic tree"
    if not LEAST_NODES <= len(data.records) <= MOST_NAMED:
        why = f"names have room for up to {MOST_NAMED} candidates; figure 5 shows all {len(data.records)}"
        return missing(name, title, why if len(data.records) > MOST_NAMED else "fewer than three candidates")
    children, order = _family(data, heavy_first=False)
    row, depth = _leaves(children, order), _depths(children)
    figure = Figure(figsize=(WIDTH, max(2.4, 0.24 * len(data.records))), layout="constrained")
    axes = figure.add_subplot()
    for parent, kids in children.items():
        if parent is None:
            continue
        for kid in kids:
            axes.plot([depth[parent], depth[kid]], [row[parent], row[kid]], color=SOFT, lw=1, zorder=1)
    points = {record.id: (float(depth[record.id]), row[record.id]) for record in data.records}
    _dots(figure, axes, data, points, 36)
    for record in data.records:
        axes.annotate(
            name_of(record),
            points[record.id],
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=INK,
        )
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
    children, order = _family(data, heavy_first=True)
    row, depth = _leaves(children, order), _depths(children)
    leaves = sum(1 for one in order if not children.get(one))
    inner = 0.0 if len(children[None]) == 1 else 1.0
    angle = {one: 2 * pi * row[one] / leaves for one in order}
    radius = {one: depth[one] + inner for one in order}
    point = {one: (radius[one] * sin(angle[one]), radius[one] * cos(angle[one])) for one in order}
    edges = [
        _edge(radius[parent], angle[parent] if radius[parent] else angle[kid], radius[kid], angle[kid])
        for parent, kids in children.items()
        if parent is not None
        for kid in kids
    ]
    figure = Figure(figsize=(WIDTH, WIDTH * 0.58), layout="constrained")
    axes = figure.add_subplot()
    axes.add_collection(LineCollection(edges, colors=SOFT, linewidths=0.4 if len(order) > 300 else 1, alpha=0.6))
    _dots(figure, axes, data, point, 5 if len(order) > 300 else 30)
    outer = max(radius.values()) or 1.0
    best = [record for record in data.ranked if record.id in angle][:NAMED]
    for side in (-1, 1):
        named = sorted((one for one in best if (point[one.id][0] >= 0) == (side > 0)), key=lambda one: point[one.id][1])
        heights = _apart([point[one.id][1] for one in named], 2 * outer / LINES, outer)
        for one, height in zip(named, heights, strict=True):
            x, y = point[one.id]
            axes.plot([x, side * outer * 1.06, side * outer * 1.12], [y, height, height], color=SOFT, lw=0.5, zorder=1)
            axes.annotate(name_of(one)[:28], (side * outer * 1.12, height), xytext=(2 * side, 0),
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


def _polar(radius: float, angle: float) -> tuple[float, float]:
    return radius * sin(angle), radius * cos(angle)


def _edge(inner: float, start: float, outer: float, end: float) -> list[tuple[float, float]]:
    """A curve that leaves and arrives along a radius, as points of a cubic Bézier."""
    middle = (inner + outer) / 2
    corners = (_polar(inner, start), _polar(middle, start), _polar(middle, end), _polar(outer, end))
    curve = []
    for step in range(11):
        t = step / 10
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
        curve.append((
            sum(weight * x for weight, (x, _) in zip(weights, corners, strict=True)),
            sum(weight * y for weight, (_, y) in zip(weights, corners, strict=True)),
        ))  # fmt: skip
    return curve


def _apart(heights: list[float], distance: float, limit: float) -> list[float]:
    """Ascending heights within ±limit, moved until neighbours are `distance` apart."""
    places: list[float] = []
    for place, height in enumerate(heights):
        after = (len(heights) - 1 - place) * distance
        lowest = places[-1] + distance if places else -limit
        places.append(max(lowest, min(height, limit - after)))
    return places


def _family(data: Dataset, heavy_first: bool) -> tuple[Children, list[str]]:
    """Children by parent, and all candidates with parents before children; the heaviest child stands in the middle."""
    known = {record.id for record in data.records}
    children: defaultdict[str | None, list[str]] = defaultdict(list)
    for record in data.records:
        children[record.proposal.parent if record.proposal.parent in known else None].append(record.id)
    family: Children = {None: [], **children}
    if heavy_first:
        sizes: dict[str, int] = {}
        for node in reversed(_order(family)):
            sizes[node] = 1 + sum(sizes[kid] for kid in family.get(node, []))
        for parent, kids in family.items():
            arranged: list[str] = []
            for place, kid in enumerate(sorted(kids, key=lambda kid: -sizes.get(kid, 0))):
                arranged.insert(0 if place % 2 else len(arranged), kid)
            family[parent] = arranged
    return family, _order(family)


def _order(children: Children) -> list[str]:
    order: list[str] = []
    waiting = list(reversed(children[None]))
    while waiting:
        node = waiting.pop()
        order.append(node)
        waiting += reversed(children.get(node, []))
    return order


def _leaves(children: Children, order: list[str]) -> dict[str, float]:
    """A row for every leaf, parents in the middle of theirs."""
    place = {node: float(row) for row, node in enumerate(one for one in order if not children.get(one))}
    for node in reversed(order):
        if kids := children.get(node):
            place[node] = fmean((min(place[kid] for kid in kids), max(place[kid] for kid in kids)))
    return place


def _depths(children: Children) -> dict[str, int]:
    depth: dict[str, int] = {}
    waiting = [(root, 0) for root in children[None]]
    while waiting:
        node, level = waiting.pop()
        depth[node] = level
        waiting += [(kid, level + 1) for kid in children.get(node, ())]
    return depth


def _dots(figure: Figure, axes: Axes, data: Dataset, points: dict[str, tuple[float, float]], size: float) -> None:
    plainly = [
        points[record.id] for record in data.records if not record.verdict.HasField("fitness") and record.id in points
    ]
    scored = sorted(
        (record for record in data.scored if record.id in points), key=lambda record: record.verdict.fitness.value
    )
    if plainly:
        xs, ys = zip(*plainly, strict=True)
        axes.scatter(xs, ys, s=size, color="white", edgecolors=SOFT, lw=0.8, zorder=2)
    if scored:
        values = [record.verdict.fitness.value for record in scored]
        low = sorted(values)[len(values) // 20]
        xs, ys = zip(*(points[record.id] for record in scored), strict=True)
        dots = axes.scatter(xs, ys, s=size, c=values, cmap=MAP, vmin=low, vmax=max(values), lw=0, zorder=3)
        bar = figure.colorbar(dots, ax=axes, label="fitness", shrink=0.45, aspect=24, pad=0.01)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)


def _cells(data: Dataset) -> tuple[tuple[str, ...], tuple[tuple[object, ...], ...]]:
    return ("id", "parent", "name", "fitness", "loss", "state"), tuple(
        (row["id"], row["parent"], row["name"], row["fitness"], row["loss"], row["state"]) for row in data.rows
    )
