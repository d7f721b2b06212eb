"""The seeds of one proposal, drawn by the run's policy from the archive as it stands."""

import random
from collections.abc import Sequence

from services.contracts import archive_pb2, candidate_pb2
from services.domain import pool as pools
from services.domain.pool import Draw, Entry, strategy
from services.store.policies import policy_of
from services.store.port import Archive, RunRow

_BEYOND_THE_POOL = frozenset({"uniform", "uct", "islands"})


async def draw_seeds(archive: Archive, row: RunRow, candidate: str) -> Draw | None:
    """Parent and references for `candidate`; None while nothing was scored.

    The generator is seeded by the run's seed and the candidate's id, so that the same question about the same archive
    has the same answer.
    """
    name = "uniform" if row.settings.ablations.random_parent else row.settings.parent_policy or "paper"
    policy = policy_of(row.settings)
    members = pools.seeds(row.state.pool)
    entries = _entries(await archive.tree(row.run)) if name in _BEYOND_THE_POOL else members
    if not entries:
        return None
    rng = random.Random(f"{row.settings.seed}:{candidate}")
    if name == "paper":
        return pools.draw(members, policy.pool, rng)
    known = {entry.id: entry for entry in entries}
    return pools.draw(members, policy.pool, rng, known[strategy(name).choose(entries, rng)])


def _entries(nodes: Sequence[archive_pb2.TreeNode]) -> tuple[Entry, ...]:
    """All that was scored, but for ablations: they answer a question, nobody builds on them."""
    return tuple(
        Entry(node.id, node.fitness, node.number, node.parent or None)
        for node in nodes
        if node.HasField("fitness") and node.kind != candidate_pb2.KIND_ABLATION
    )
