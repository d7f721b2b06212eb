"""The settings of runs, asked for once in a while: they are fixed when a run starts, but for its budget."""

from __future__ import annotations

import time

from services.contracts import archive_pb2, archive_pb2_grpc, events_pb2

FRESH_SECONDS = 5.0


class Runs:
    """A short memory in front of Archive.GetRun."""

    def __init__(self, archive: archive_pb2_grpc.ArchiveAsyncStub) -> None:
        self._archive = archive
        self._known: dict[str, tuple[float, events_pb2.RunSettings]] = {}

    async def settings(self, run: str) -> events_pb2.RunSettings:
        """The settings of a run, at most five seconds old. Raises what the call raises."""
        asked, settings = self._known.get(run, (0.0, None))
        if settings is None or time.monotonic() - asked > FRESH_SECONDS:
            settings = (await self._archive.GetRun(archive_pb2.RunRequest(run=run), timeout=30)).settings
            self._known[run] = (time.monotonic(), settings)
        return settings
