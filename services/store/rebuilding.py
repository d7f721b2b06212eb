"""A run rebuilt from its log to be compared and thrown away: the same projection as an archive's, without a database.

Records of candidates that have ended wait in a temporary file, so that memory grows by the events' ids and hashes only.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from services.contracts import candidate_pb2
from services.store.backends.folding import Digest, Effects, Key, Loaded, fold, needs
from services.store.backends.rows import record_bytes
from services.store.port import CandidateRow, LogRow, PoolRow
from services.store.projection import Incoming


@dataclass(frozen=True, slots=True)
class Seen:
    """What an archive made of one event: enough to compare."""

    event: str  # its id; of what is no event, its hash
    sequence: int
    sha256: bytes
    accepted: bool
    refused_because: str

    @classmethod
    def of(cls, row: LogRow) -> "Seen":
        """From what an archive remembers."""
        return cls(row.event.id or row.sha256.hex(), row.sequence, row.sha256, row.accepted, row.refused_because)


class Rebuilt:
    """One run. Use it as a context manager."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._standing = Loaded()
        self._pools: list[PoolRow] = []
        self._ended: dict[Key, tuple[CandidateRow, int, int]] = {}  # without its record, which lies in the file
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object

    def __enter__(self) -> "Rebuilt":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()

    def apply(self, incoming: Sequence[Incoming]) -> None:
        """The next messages, in order."""
        for key in needs(incoming).candidates & self._ended.keys():
            self._standing.rows[key] = self._taken_back(key)
        effects = fold(incoming, self._standing, None)
        self.seen += [Seen.of(row) for row in effects.logs]
        self._pools += effects.pools
        self._put_away(effects)

    def digest(self) -> tuple[str, int]:
        """As every archive computes it: the digest and the number of accepted events."""
        found = Digest()
        for key in sorted(self._ended.keys() | self._standing.rows.keys()):
            found.candidate(self._record(key))
        for pool in self._pools:
            found.pool(pool)
        for one in sorted((one for one in self.seen if one.accepted), key=lambda one: one.event):
            found.event(one.sha256)
        return found.result()

    def _put_away(self, effects: Effects) -> None:
        for key, row in effects.rows.items():
            if row.ended is not None:
                place, record = self._file.seek(0, 2), record_bytes(row.record)
                self._file.write(record)
                self._ended[key] = replace(row, record=candidate_pb2.Candidate()), place, len(record)
                del self._standing.rows[key]

    def _taken_back(self, key: Key) -> CandidateRow:
        record = candidate_pb2.Candidate.FromString(self._record(key))
        return replace(self._ended.pop(key)[0], record=record)

    def _record(self, key: Key) -> bytes:
        if key not in self._ended:
            return record_bytes(self._standing.rows[key].record)
        _, place, size = self._ended[key]
        self._file.seek(place)
        return self._file.read(size)
