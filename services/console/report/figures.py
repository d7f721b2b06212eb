"""The figures of the paper, drawn from one run. Each returns None with its reason where the archive lacks the data."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from math import cos, pi, sin
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from services.console.report.dataset import Dataset, name_of, seconds_of
from services.console.report.drawing import ACCENT, GOOD, INK, SOFT, Drawing, new_axes
from services.contracts import candidate_pb2 as pb

MAP = "viridis"
MOST_NAMES = 60
BLOCK = 50
Cells = list[list[object]]


def drawings(data: Dataset) -> list[Drawing]:
    """Every figure, in the paper's order, and two of our own."""
    makers: Sequence[Callable[[Dataset], Drawing]] = (
        best_so_far, tree, radial_tree, pool_over_time, component_shares, parameter_counts, curves,
    )  # fmt: skip
    return [make(data) for make in makers]


def best_so_far(data: Dataset) -> Drawing:
    """Figure 1's place: what compute really bought."""
    title = "Figure 1 · Best fitness against compute spent"
    name = "figure-1-compute"
    spent, best, cells = 0.0, float("-inf"), []
    for one in data.measured:
        spent += seconds_of(one)
        if one.verdict.HasField("fitness") and one.kind != pb.KIND_ABLATION:
            best = max(best, one.verdict.fitness.value)
            cells.append((one.id, name_of(one), spent, one.verdict.fitness.value, best))
    if not cells or not spent:
        return Drawing(name, title, "", None, missing="no candidate has both a fitness and a measured training time")
    figure, axes = new_axes("compute spent (hours of training and evaluation)", "fitness")
    hours = [cell[2] / 3600 for cell in cells]
    axes.scatter(hours, [cell[3] for cell in cells], s=18, color=SOFT, label="candidates", zorder=2)
    axes.step(hours, [cell[4] for cell in cells], where="post", color=ACCENT, lw=2, label="best so far", zorder=3)
    axes.legend(frameon=False)
    caption = (
        "The paper counts state-of-the-art models here. This run holds no confirmed discovery unless the gallery says "
        "so: what is drawn is the best fitness that the compute spent so far has bought."
    )
    return Drawing(name, title, caption, figure, ("id", "name", "seconds", "fitness", "best"), tuple(cells))


def tree(data: Dataset) -> Drawing:
    """The phylogenetic tree, oldest at the left."""
    name, title = "figure-3-tree", "Figure 3 · Phylogenetic tree"
    children, place, depth = _layout(data)
    if not place:
        return Drawing(name, title, "", None, missing="the run has no candidate yet")
    figure = Figure(figsize=(9, max(3.0, 0.28 * min(len(place), 400))), layout="constrained")
    axes = figure.add_subplot()
    named = len(place) <= MOST_NAMES
    for parent, kids in children.items():
        for kid in kids:
            if parent is not None:
                axes.plot([depth[parent], depth[kid]], [place[parent], place[kid]], color=SOFT, lw=1, zorder=1)
    _dots(figure, axes, data, [(depth[one.id], place[one.id]) for one in data.records])
    if named:
        for one in data.records:
            axes.annotate(name_of(one), (depth[one.id], place[one.id]), xytext=(8, 0), textcoords="offset points",
                          va="center", fontsize=8, color=INK)  # fmt: skip
    axes.set_xlim(-0.2, max(depth.values()) + (1.4 if named else 0.2))
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("generation")
    axes.spines[["top", "right", "left"]].set_visible(False)
    return Drawing(name, title, "Coloured by fitness; grey was not scored.", figure, *_tree_cells(data))


def radial_tree(data: Dataset) -> Drawing:
    """The same, from the middle outwards, one colour per branch."""
    name, title = "figure-5-radial", "Figure 5 · Radial tree"
    children, place, depth = _layout(data)
    if not place:
        return Drawing(name, title, "", None, missing="the run has no candidate yet")
    figure = Figure(figsize=(7, 7), layout="constrained")
    axes = figure.add_subplot()
    turn = 2 * pi / max(1, len({round(one, 6) for one in place.values()}) + 1)

    def point(one: str) -> tuple[float, float]:
        return (depth[one] + 1) * cos(place[one] * turn), (depth[one] + 1) * sin(place[one] * turn)

    branches = {}
    for number, root in enumerate(children[None]):
        branches.update(dict.fromkeys(_below(root, children), number))
    colours = [f"C{branches[one.id] % 10}" for one in data.records]
    for parent, kids in children.items():
        for kid in kids:
            start = point(parent) if parent is not None else (0.0, 0.0)
            end = point(kid)
            axes.plot([start[0], end[0]], [start[1], end[1]], color=f"C{branches[kid] % 10}", lw=1, alpha=0.6, zorder=1)
    points = [point(one.id) for one in data.records]
    axes.scatter([x for x, _ in points], [y for _, y in points], s=26, c=colours, zorder=2)
    for one, (x, y) in zip(data.records, points, strict=True):
        if len(points) <= MOST_NAMES:
            axes.annotate(name_of(one), (x, y), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=7)
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.margins(0.18)
    return Drawing(name, title, "One colour for each root and what descends from it.", figure, *_tree_cells(data))


def pool_over_time(data: Dataset) -> Drawing:
    """How loss, benchmark and fitness of the best move as candidates come in."""
    name, title = "figure-6-pool", "Figure 6 · The pool over time"
    scored = [one for one in data.scored if one.training.HasField("loss") and one.training.HasField("benchmark")]
    if len(scored) < 3:
        return Drawing(name, title, "", None, missing="fewer than three candidates have loss, benchmark and fitness")
    size = max(1, data.status.settings.pool.size or 50)
    step = BLOCK if len(scored) >= 4 * BLOCK else 1
    cells = []
    for count in range(step, len(scored) + 1, step):
        best = sorted(scored[:count], key=lambda one: -one.verdict.fitness.value)[:size]
        cells.append((
            count,
            fmean(one.training.loss for one in best),
            fmean(one.training.benchmark for one in best),
            fmean(one.verdict.fitness.value for one in best),
        ))  # fmt: skip
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for number, (label, column) in enumerate((("mean loss", 1), ("mean benchmark", 2), ("mean fitness", 3)), 1):
        axes = figure.add_subplot(1, 3, number)
        axes.plot([cell[0] for cell in cells], [cell[column] for cell in cells], color=ACCENT, lw=2)
        axes.set_xlabel("scored candidates")
        axes.set_title(label, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    caption = f"Means over the best {size} candidates so far, after every {step}."
    return Drawing(name, title, caption, figure, ("scored", "loss", "benchmark", "fitness"), tuple(cells))


def component_shares(data: Dataset) -> Drawing:
    """What the best are made of, and the rest."""
    name, title = "figure-7-components", "Figure 7 · Components of the best against all others"
    tagged = [one for one in data.ranked if _components(one)]
    if len(tagged) < 4:
        return Drawing(name, title, "", None, missing="fewer than four scored candidates have their components tagged")
    cut = max(1, len(tagged) // 4)
    groups = (tagged[:cut], tagged[cut:])
    shares = [_shares(group) for group in groups]
    kinds = sorted(shares[0].keys() | shares[1].keys(), key=lambda kind: -(shares[0][kind] + shares[1][kind]))[:20]
    figure = Figure(figsize=(8, 0.34 * len(kinds) + 1), layout="constrained")
    axes = figure.add_subplot()
    for offset, share, colour, label in ((-0.2, shares[0], GOOD, f"best quarter ({cut})"),
                                         (0.2, shares[1], SOFT, f"others ({len(tagged) - cut})")):  # fmt: skip
        axes.barh([place + offset for place in range(len(kinds))], [100 * share[kind] for kind in kinds], 0.38,
                  color=colour, label=label)  # fmt: skip
    axes.set_yticks(range(len(kinds)), kinds)
    axes.invert_yaxis()
    axes.set_xlabel("share of component mentions (%)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    caption = "The paper compares its gallery; until a discovery is confirmed the best quarter stands in for it."
    cells = tuple((kind, shares[0][kind], shares[1][kind]) for kind in kinds)
    return Drawing(name, title, caption, figure, ("component", "best", "others"), cells)


def parameter_counts(data: Dataset) -> Drawing:
    """Do candidates win by size?"""
    name, title = "figure-8-parameters", "Figure 8 · Parameters by block of experiments"
    counted = [(one, one.training.seeds[0].measurements.parameters) for one in data.measured]
    counted = [(one, count) for one, count in counted if count]
    if not counted:
        return Drawing(name, title, "", None, missing="no parameter count was recorded")
    size = BLOCK if len(counted) >= 2 * BLOCK else max(1, len(counted) // 3)
    blocks = [[count for _, count in counted[start : start + size]] for start in range(0, len(counted), size)]
    figure, axes = new_axes("block of experiments", "parameters (thousands)")
    axes.boxplot([[count / 1e3 for count in block] for block in blocks], widths=0.5,
                 medianprops={"color": GOOD}, flierprops={"markersize": 3})  # fmt: skip
    labels = [f"{start + 1}–{min(start + size, len(counted))}" for start in range(0, len(counted), size)]
    axes.set_xticks(range(1, len(blocks) + 1), labels)
    cells = tuple((one.id, name_of(one), count) for one, count in counted)
    return Drawing(name, title, "Boxes: quartiles; line: median.", figure, ("id", "name", "parameters"), cells)


def curves(data: Dataset) -> Drawing:
    """Training curves of the best against the baselines."""
    name, title = "curves", "Training curves"
    chosen = [one for one in data.records if one.kind == pb.KIND_BASELINE and one.training.seeds]
    chosen += [one for one in data.ranked if one.kind != pb.KIND_BASELINE][:4]
    drawn = [(one, _mean_curve(one)) for one in chosen]
    drawn = [(one, points) for one, points in drawn if len(points) > 1]
    if not drawn:
        return Drawing(name, title, "", None, missing="no training curve was recorded")
    figure, axes = new_axes("steps", "training loss (nats per token)")
    for one, points in drawn:
        baseline = one.kind == pb.KIND_BASELINE
        axes.plot([step for step, _ in points], [loss for _, loss in points], lw=1.2 if baseline else 2,
                  ls="--" if baseline else "-", label=name_of(one))  # fmt: skip
    low = min(loss for _, points in drawn for _, loss in points)
    late = max(points[len(points) // 6][1] for _, points in drawn)
    axes.set_ylim(low - 0.05 * (late - low), late)
    axes.legend(frameon=False, fontsize=8)
    cells = tuple((one.id, step, loss) for one, points in drawn for step, loss in points)
    return Drawing(name, title, "Dashed: baselines; solid: the best proposals.", figure, ("id", "step", "loss"), cells)


def _dots(figure: Figure, axes: Axes, data: Dataset, points: Sequence[tuple[float, float]]) -> None:
    scores = [one.verdict.fitness.value if one.verdict.HasField("fitness") else None for one in data.records]
    plain = [point for point, score in zip(points, scores, strict=True) if score is None]
    axes.scatter([x for x, _ in plain], [y for _, y in plain], s=30, color="white", edgecolors=SOFT, zorder=2)
    known = [(point, score) for point, score in zip(points, scores, strict=True) if score is not None]
    if known:
        dots = axes.scatter([x for (x, _), _ in known], [y for (_, y), _ in known], s=36,
                            c=[score for _, score in known], cmap=MAP, zorder=3)  # fmt: skip
        figure.colorbar(dots, ax=axes, label="fitness", shrink=0.6)


def _layout(data: Dataset) -> tuple[dict[str | None, list[str]], dict[str, float], dict[str, int]]:
    """Children by parent, a row for every node (parents in the middle of theirs), and generations."""
    known = {one.id for one in data.records}
    children: defaultdict[str | None, list[str]] = defaultdict(list)
    for one in data.records:
        children[one.proposal.parent if one.proposal.parent in known else None].append(one.id)
    depth: dict[str, int] = {}
    order: list[str] = []
    waiting = [(root, 0) for root in reversed(children[None])]
    while waiting:
        node, level = waiting.pop()
        depth[node] = level
        order.append(node)
        waiting += [(kid, level + 1) for kid in reversed(children[node])]
    place: dict[str, float] = {}
    for row, node in enumerate(one for one in order if not children[one]):
        place[node] = float(row)
    for node in reversed(order):
        if children[node]:
            place[node] = fmean(place[kid] for kid in children[node])
    return dict(children) | {None: children[None]}, place, depth


def _below(root: str, children: dict[str | None, list[str]]) -> list[str]:
    found, waiting = [], [root]
    while waiting:
        node = waiting.pop()
        found.append(node)
        waiting += children.get(node, [])
    return found


def _tree_cells(data: Dataset) -> tuple[tuple[str, ...], tuple[tuple[object, ...], ...]]:
    return ("id", "parent", "name", "fitness", "loss", "state"), tuple(
        (one["id"], one["parent"], one["name"], one["fitness"], one["loss"], one["state"]) for one in data.rows
    )


def _components(record: pb.Candidate) -> list[str]:
    return list(record.analysis.components) or list(record.proposal.components)


def _shares(records: Sequence[pb.Candidate]) -> Counter[str]:
    counts = Counter(kind for one in records for kind in _components(one))
    total = sum(counts.values()) or 1
    shares: Counter[str] = Counter()
    for kind, count in counts.items():
        shares[kind] = count / total  # type: ignore[assignment]
    return shares


def _mean_curve(record: pb.Candidate) -> list[tuple[int, float]]:
    points: defaultdict[int, list[float]] = defaultdict(list)
    for seed in record.training.seeds:
        for point in seed.curve:
            if point.HasField("train_loss"):
                points[point.step].append(point.train_loss)
    return [(step, fmean(losses)) for step, losses in sorted(points.items())]
