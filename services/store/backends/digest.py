"""The digest of a run: what two archives of the same run agree on, wherever its events lie in the log."""

import hashlib

from services.store.port import PoolRow


class Digest:
    """Feed candidates by id, then pools in order, then accepted events by id; every backend does it in this order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._events = 0

    def candidate(self, record: bytes) -> None:
        """A record as it is stored."""
        self._add(b"candidate", record)

    def pool(self, pool: PoolRow) -> None:
        """A snapshot, without the sequence from which it held."""
        self._add(b"pool", str(pool.entries).encode(), *(one.SerializeToString() for one in pool.members))

    def event(self, sha256: bytes) -> None:
        """An accepted event."""
        self._events += 1
        self._add(b"event", sha256)

    def result(self) -> tuple[str, int]:
        """The digest as hex, and the number of accepted events."""
        return self._hash.hexdigest(), self._events

    def _add(self, *parts: bytes) -> None:
        for part in (str(len(parts)).encode(), *parts):
            self._hash.update(len(part).to_bytes(8, "little"))
            self._hash.update(part)
