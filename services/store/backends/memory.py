"""The archive in memory, for tests and benchmarks.

It uses plain dictionaries and sorting, and is the reference that the databases are compared with.
"""

import pickle
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from services.chassis.bus import Logged
from services.chassis.errors import NotFound
from services.contracts import archive_pb2, candidate_pb2
from services.domain.lineage import path_to_root
from services.store.backends.folding import Digest, Effects, Key, Loaded, fold, needs, unapplied
from services.store.backends.indices import Sketched
from services.store.backends.neighbours import StoredProgram, StoredVector
from services.store.backends.rows import (
    Backend,
    Order,
    candidate_row,
    columns,
    move_outcome,
    record_bytes,
    tree_node,
)
from services.store.port import (
    CandidateRow,
    Change,
    LogRow,
    Outgoing,
    Page,
    PoolRow,
    Position,
    Query,
    React,
    Reservation,
    RunRow,
)
from services.store.projection import read

Slim = dict[str, Any]  # columns of a candidate


class MemoryArchive(Backend):
    """`services.store.port.Archive` without a database. Records are stored serialised, at a tenth of their size."""

    def __init__(self) -> None:
        super().__init__(self)
        self._applied = 0
        self._runs: dict[str, RunRow] = {}
        self._slim: dict[str, dict[str, Slim]] = {}  # by run, then by candidate, in the order of their requests
        self._records: dict[Key, bytes] = {}
        self._moves: dict[Key, tuple[str, ...]] = {}
        self._log: dict[str, list[LogRow]] = {}
        self._messages: list[Logged] = []
        self._accepted: dict[str, int] = {}
        self._pools: dict[str, list[PoolRow]] = {}
        self._outbox: dict[int, Outgoing] = {}
        self._reservations: dict[int, Reservation] = {}
        self._number = 0
        self._vectors: dict[tuple[str, str], list[StoredVector]] = {}
        self._programs: dict[str, dict[int, StoredProgram]] = {}

    async def open(self) -> None:
        pass

    async def drift(self) -> list[str]:
        return []

    async def damage(self) -> list[str]:
        return []

    async def close(self) -> None:
        pass

    async def healthy(self) -> bool:
        return True

    async def apply(self, messages: Sequence[Logged], react: React | None = None) -> list[Change]:
        incoming = unapplied(messages, self._applied)
        if not incoming:
            return []
        required = needs(incoming)
        loaded = Loaded(
            runs={run: self._runs[run] for run in required.runs if run in self._runs},
            rows={key: self._row(key) for key in required.candidates if key in self._records},
            accepted={event: self._accepted[event] for event in required.ids if event in self._accepted},
        )
        effects = fold(incoming, loaded, react)
        self._write(effects)
        return effects.changes

    def put(self, run: RunRow, records: Iterable[candidate_pb2.Candidate] = ()) -> None:
        """Store a run and records without events, for tests and demonstrations."""
        self._write(Effects(self._applied + 1, [], runs={run.run: run}))
        for record in records:
            sequence, key = self._applied + 1, (run.run, record.id)
            previous = self._row(key) if key in self._records else None
            ended = sequence if record.state in (candidate_pb2.STATE_ARCHIVED, candidate_pb2.STATE_REJECTED) else None
            effects = Effects(
                sequence, [], rows={key: CandidateRow(record, previous.requested if previous else sequence, ended)}
            )
            if record.HasField("proposal") and not (previous and previous.record.HasField("proposal")):
                effects.proposed[key] = sequence
            self._write(effects)

    def _write(self, effects: Effects) -> None:
        self._messages += effects.messages
        for row in effects.logs:
            self._log.setdefault(row.run, []).append(row)
            if row.accepted:
                self._accepted[row.event.id] = row.sequence
        self._runs.update(effects.runs)
        for key, candidate in effects.rows.items():
            self._slim.setdefault(key[0], {})[key[1]] = columns(candidate) | {"run": key[0], "id": key[1]}
            self._records[key] = record_bytes(candidate.record)
            self._moves[key] = tuple(candidate.record.proposal.moves)
        for key, sequence in effects.proposed.items():
            self._put_proposal(key, sequence, effects.rows[key].record.proposal)
        for pool in effects.pools:
            self._pools.setdefault(pool.run, []).append(pool)
        stored = set(effects.stored)
        self._outbox = {number: entry for number, entry in self._outbox.items() if entry.event.id not in stored}
        for event in effects.reactions.values():
            number = self._next()
            self._outbox[number] = Outgoing(number, event)
        self._applied = effects.sequence

    def _put_proposal(self, key: Key, sequence: int, proposal: candidate_pb2.Proposal) -> None:
        run, candidate = key
        if proposal.motivation_embedding:
            vector = np.array(proposal.motivation_embedding, dtype="<f4").tobytes()
            self._vectors.setdefault((run, proposal.embedder), []).append(StoredVector(sequence, candidate, vector))
        if proposal.program:
            self._programs.setdefault(run, {})[sequence] = StoredProgram(sequence, candidate, None)

    async def applied(self) -> int:
        return self._applied

    async def position(self) -> Position:
        return Position(self._applied, read(self._messages[-1]).log.sha256 if self._messages else None)

    async def bodies_page(self, after: int, limit: int) -> list[Logged]:
        start = bisect_right(self._messages, after, key=lambda message: message.sequence)
        return self._messages[start : start + limit]

    async def outbox(self, limit: int = 200) -> list[Outgoing]:
        return list(self._outbox.values())[:limit]

    async def sent(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._outbox.pop(number, None)

    async def reserve(self, run: str, tokens: int, nanodollars: int | None) -> int:
        number = self._next()
        self._reservations[number] = Reservation(number, run, tokens, nanodollars)
        return number

    async def unreserve(self, number: int) -> None:
        self._reservations.pop(number, None)

    async def reservations(self) -> list[Reservation]:
        return list(self._reservations.values())

    async def resolve_run(self, run: str) -> str:
        return (await self.run(run)).run

    async def run(self, run: str) -> RunRow:
        if run and run not in self._runs:
            raise NotFound(f"no run is called {run}")
        if not self._runs:
            raise NotFound("there is no run yet")
        return self._runs[run] if run else max(self._runs.values(), key=lambda row: row.started)

    async def runs(self) -> list[RunRow]:
        return sorted(self._runs.values(), key=lambda row: -row.started)

    async def candidate_of_id(self, run: str, candidate: str) -> CandidateRow | None:
        return self._row((run, candidate)) if (run, candidate) in self._records else None

    async def ids_of_name(self, run: str, name: str) -> list[str]:
        return sorted(candidate for candidate, slim in self._of(run).items() if slim["name"] == name)[:5]

    async def candidates(self, run: str, ids: Sequence[str]) -> list[candidate_pb2.Candidate]:
        run = await self.resolve_run(run)
        return [self._row((run, name)).record for name in ids if (run, name) in self._records]

    async def list_candidates(self, query: Query) -> Page:
        order = Order.of(query)
        run = await self.resolve_run(query.run)
        matching = [
            slim
            for slim in self._of(run).values()
            if (not query.states or slim["state"] in query.states)
            and (not query.kinds or slim["kind"] in query.kinds)
            and (not query.stage or slim["stage"] == query.stage)
        ]
        page = _sorted(matching, order)[query.offset : query.offset + query.limit]
        return Page(tuple(await self.candidates(run, page)), len(matching))

    async def state_counts(self, run: str) -> dict[int, int]:
        return dict(Counter(slim["state"] for slim in self._of(await self.resolve_run(run)).values()))

    async def event_count(self, run: str) -> int:
        return len(self._log.get(await self.resolve_run(run), ()))

    async def tree(self, run: str) -> list[archive_pb2.TreeNode]:
        return [tree_node(slim) for slim in self._of(await self.resolve_run(run)).values()]

    async def subtree(self, run: str, candidate: str) -> list[archive_pb2.TreeNode]:
        run = await self._require_candidate(run, candidate)
        below, reached = {candidate}, {candidate}
        while reached:
            reached = {name for name, slim in self._of(run).items() if slim["parent"] in reached} - below
            below |= reached
        return [tree_node(slim) for name, slim in self._of(run).items() if name in below]

    async def children(self, run: str, candidate: str) -> list[str]:
        run = await self._require_candidate(run, candidate)
        children = (slim for slim in self._of(run).values() if slim["parent"] == candidate)
        return _sorted(children, Order("fitness", descending=True))

    async def path(self, run: str, candidate: str) -> list[str]:
        run = await self._require_candidate(run, candidate)
        slims = self._of(run)
        parents = {name: slim["parent"] if slim["parent"] in slims else None for name, slim in slims.items()}
        return path_to_root(parents, candidate)[::-1]

    async def pool(self, run: str, at_sequence: int = 0) -> PoolRow | None:
        pools = self._pools.get(await self.resolve_run(run), [])
        return next((pool for pool in reversed(pools) if not at_sequence or pool.sequence <= at_sequence), None)

    async def baselines(self, run: str) -> list[candidate_pb2.Candidate]:
        run = await self.resolve_run(run)
        baselines = (slim for slim in self._of(run).values() if slim["kind"] == candidate_pb2.KIND_BASELINE)
        return await self.candidates(run, _sorted(baselines, Order("number", descending=False)))

    async def moves(self, run: str, limit: int) -> list[archive_pb2.MoveOutcome]:
        run = await self.resolve_run(run)
        slims = self._of(run)
        proposals = [
            slim for slim in slims.values() if slim["kind"] == candidate_pb2.KIND_PROPOSAL and slim["proposed"]
        ]
        return [
            move_outcome(
                self._moves[run, slim["id"]],
                slim["fitness"],
                slims.get(slim["parent"], {}).get("fitness"),
                slim["state"],
                slim["structure"],
            )
            for slim in (proposals[-limit:] if limit > 0 else [])
        ]

    async def recent_rejections(self, run: str, limit: int) -> list[candidate_pb2.Candidate]:
        run = await self.resolve_run(run)
        rejected = [name for name, slim in self._of(run).items() if slim["state"] == candidate_pb2.STATE_REJECTED]
        return await self.candidates(run, rejected[::-1][:limit])

    async def chain(self, run: str, candidate: str) -> list[LogRow]:
        run = await self._require_candidate(run, candidate)
        return [row for row in self._log.get(run, ()) if row.candidate == candidate]

    async def log_page(self, run: str, after: int, limit: int) -> list[LogRow]:
        rows = self._log.get(run, [])
        start = bisect_right(rows, after, key=lambda row: row.sequence)
        return rows[start : start + limit]

    async def digest(self, run: str) -> tuple[str, int]:
        run, digest = await self.resolve_run(run), Digest()
        for name in sorted(self._of(run)):
            digest.candidate(self._records[run, name])
        for pool in self._pools.get(run, ()):
            digest.pool(pool)
        for row in sorted((row for row in self._log.get(run, ()) if row.accepted), key=lambda row: row.event.id):
            digest.event(row.sha256)
        return digest.result()

    async def backup(self, path: Path) -> None:
        state = {name: value for name, value in self.__dict__.items() if name not in ("_source", "_neighbours")}
        with path.open("xb") as file:
            pickle.dump(state, file)

    async def restore(self, path: Path) -> None:
        """Load a file that `backup` wrote. Raises FileExistsError if this archive is not empty."""
        if self._applied:
            raise FileExistsError("the archive in memory is not empty: restore into a new one")
        with path.open("rb") as file:
            self.__dict__.update(pickle.load(file))  # noqa: S301 - written by `backup`

    async def vectors(self, run: str, embedder: str, after: int, limit: int) -> list[StoredVector]:
        return [row for row in self._vectors.get((run, embedder), ()) if row.sequence > after][:limit]

    async def programs(self, run: str, after: int, limit: int) -> list[StoredProgram]:
        return [row for row in self._programs.get(run, {}).values() if row.sequence > after][:limit]

    async def program_texts(self, run: str, ids: Sequence[str]) -> dict[str, str]:
        return {candidate.id: candidate.proposal.program for candidate in await self.candidates(run, ids)}

    async def program_runs(self, run: str, ids: Sequence[str]) -> dict[str, Sketched]:
        rows = self._programs.get(run, {}).values()
        return {row.candidate: row.sketched for row in rows if row.sketched is not None and row.candidate in ids}

    async def save_fingerprints(self, sketches: Sequence[tuple[int, Sketched]]) -> None:
        for programs in self._programs.values():
            for sequence, sketched in sketches:
                if sequence in programs:
                    programs[sequence] = StoredProgram(sequence, programs[sequence].candidate, sketched)

    async def _require_candidate(self, run: str, candidate: str) -> str:
        run = await self.resolve_run(run)
        if (run, candidate) not in self._records:
            raise NotFound(f"run {run} has no candidate {candidate!r}")
        return run

    def _of(self, run: str) -> dict[str, Slim]:
        return self._slim.get(run, {})

    def _row(self, key: Key) -> CandidateRow:
        return candidate_row(self._records[key], self._slim[key[0]][key[1]])

    def _next(self) -> int:
        self._number += 1
        return self._number


def _sorted(slims: Iterable[Slim], order: Order) -> list[str]:
    """Ids by a column; absent numbers last in either direction, ties by id."""
    by_id = sorted(slims, key=lambda slim: slim["id"])
    present = [slim for slim in by_id if slim[order.column] is not None]
    present.sort(key=lambda slim: slim[order.column], reverse=order.descending)
    return [slim["id"] for slim in (*present, *(slim for slim in by_id if slim[order.column] is None))]
