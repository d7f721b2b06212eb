"""The family tree of candidates, from a mapping of each id to its parent: ``None`` for a root, and several are fine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Parents = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Flaws:
    """What keeps a mapping from being a forest; ids in the mapping's order."""

    orphans: tuple[str, ...]
    """Ids whose parent is not in the mapping."""
    cyclic: tuple[str, ...]
    """Ids that are their own ancestor."""

    @property
    def any(self) -> bool:
        """Whether there is a flaw at all."""
        return bool(self.orphans or self.cyclic)


def flaws(parents: Parents) -> Flaws:
    """Find every orphan and every member of a cycle, in time linear in the mapping."""
    orphans = tuple(candidate for candidate, parent in parents.items() if parent is not None and parent not in parents)
    return Flaws(orphans, _cyclic(parents))


def path_to_root(parents: Parents, candidate: str) -> list[str]:
    """The candidate, its parent and so on up to its root.

    Raises ``KeyError`` for an unknown candidate, ``ValueError`` for a path that meets an orphan or a cycle.
    """
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


def root(parents: Parents, candidate: str) -> str:
    """The candidate at the top of the path; errors as :func:`path_to_root`."""
    return path_to_root(parents, candidate)[-1]


def roots(parents: Parents) -> list[str]:
    """All candidates without a parent, in the mapping's order."""
    return [candidate for candidate, parent in parents.items() if parent is None]


def grandparent(parents: Parents, candidate: str) -> str | None:
    """The parent's parent, ``None`` where there is none. Raises ``KeyError`` for an unknown candidate."""
    parent = parents[candidate]
    return None if parent is None else parents.get(parent)


def children(parents: Parents) -> dict[str, list[str]]:
    """The children of every candidate, in the mapping's order: the index that the functions below take."""
    index: dict[str, list[str]] = {parent: [] for parent in parents}
    for candidate, parent in parents.items():
        if parent is not None:
            index.setdefault(parent, []).append(candidate)
    return index


def siblings(parents: Parents, candidate: str, index: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """The other children of the candidate's parent; a root has none. ``index`` is what :func:`children` gave."""
    parent = parents[candidate]
    if parent is None:
        return []
    index = index or children(parents)
    return [child for child in index[parent] if child != candidate]


def subtree(parents: Parents, candidate: str, index: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """The candidate and all its descendants, parents before children (depth first). Raises ``KeyError`` if unknown."""
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
    """How far every candidate is from its root (0 for the root itself); errors as :func:`path_to_root`."""
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
        depth.update({climbed: base + place for place, climbed in enumerate(reversed(path), start=1)})
    return depth


def _cyclic(parents: Parents) -> tuple[str, ...]:
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
    return tuple(parent for parent in parents if parent in cyclic)
