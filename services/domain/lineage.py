"""The forest of candidates, as a mapping of each id to its parent, which is ``None`` for a root."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Parents = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Flaws:
    """Defects of a mapping that is no forest; ids in its order."""

    orphans: tuple[str, ...]
    """Ids whose parent is not in the mapping."""
    cyclic: tuple[str, ...]
    """Ids that are their own ancestor."""


def flaws(parents: Parents) -> Flaws:
    """All orphans and members of cycles, in linear time."""
    settled: set[str] = set()
    cyclic: set[str] = set()
    for start in parents:
        path: dict[str, None] = {}
        step: str | None = start
        while step is not None and step in parents and step not in settled and step not in path:
            path[step] = None
            step = parents[step]
        if step is not None and step in path:
            walked = list(path)
            cyclic.update(walked[walked.index(step) :])
        settled.update(path)
    orphans = tuple(candidate for candidate, parent in parents.items() if parent is not None and parent not in parents)
    return Flaws(orphans, tuple(candidate for candidate in parents if candidate in cyclic))


def path_to_root(parents: Parents, candidate: str) -> list[str]:
    """The candidate and its ancestors up to the root. Raises ``KeyError``; ``ValueError`` for an orphan or a cycle."""
    path, visited = [candidate], {candidate}
    parent = parents[candidate]
    while parent is not None:
        if parent in visited:
            raise ValueError(f"the lineage of {candidate} has a cycle through {parent}")
        if parent not in parents:
            raise ValueError(f"lineage of {candidate} is broken: {path[-1]} names the unknown parent {parent}")
        path.append(parent)
        visited.add(parent)
        parent = parents[parent]
    return path


def roots(parents: Parents) -> list[str]:
    """All candidates without a parent, in the mapping's order."""
    return [candidate for candidate, parent in parents.items() if parent is None]


def children(parents: Parents) -> dict[str, list[str]]:
    """The children of every candidate, in the mapping's order."""
    index: dict[str, list[str]] = {parent: [] for parent in parents}
    for candidate, parent in parents.items():
        if parent is not None:
            index.setdefault(parent, []).append(candidate)
    return index


def subtree(parents: Parents, candidate: str, index: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """The candidate and its descendants, depth first. ``index`` is from :func:`children`. Raises ``KeyError``."""
    index = index or children(parents)
    order, pending, visited = [], [candidate], {candidate}
    if candidate not in parents:
        raise KeyError(candidate)
    while pending:
        node = pending.pop()
        order.append(node)
        unvisited = [child for child in index.get(node, ()) if child not in visited]
        visited.update(unvisited)
        pending.extend(reversed(unvisited))
    return order


def depths(parents: Parents) -> dict[str, int]:
    """The depth of every candidate, 0 for roots; errors as :func:`path_to_root`."""
    depth: dict[str, int] = {}
    for parent in parents:
        path: list[str] = []
        step: str | None = parent
        while step is not None and step not in depth:
            if len(path) > len(parents) or step not in parents:
                path_to_root(parents, parent)
            path.append(step)
            step = parents[step]
        base = -1 if step is None else depth[step]
        depth.update({climbed: base + height for height, climbed in enumerate(reversed(path), start=1)})
    return depth
