"""What is fixed about a run, asked for once in a while: its settings, and its baselines once all of them have ended."""

from __future__ import annotations

import time
from collections.abc import Sequence

from services.contracts import archive_pb2, archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb

FRESH_SECONDS = 5.0


class Runs:
    """A short memory in front of Archive.GetRun and Archive.GetBaselines."""

    def __init__(self, archive: archive_pb2_grpc.ArchiveAsyncStub) -> None:
        self._archive = archive
        self._settings: dict[str, tuple[float, events_pb2.RunSettings]] = {}
        self._baselines: dict[tuple[str, str], tuple[float, Sequence[pb.Candidate]]] = {}

    async def settings(self, run: str) -> events_pb2.RunSettings:
        """The settings of a run, at most five seconds old. Raises what the call raises."""
        asked, settings = self._settings.get(run, (0.0, None))
        if settings is None or time.monotonic() - asked > FRESH_SECONDS:
            settings = (await self._archive.GetRun(archive_pb2.RunRequest(run=run), timeout=30)).settings
            self._settings[run] = (time.monotonic(), settings)
        return settings

    async def baselines(self, run: str, stage: str) -> Sequence[pb.Candidate]:
        """The baselines of a run's stage, root first, not to be changed: those of now while one is still on its way,
        then at most five seconds old. Raises what the call raises."""
        asked, baselines = self._baselines.get((run, stage), (0.0, None))
        if baselines is None or time.monotonic() - asked > FRESH_SECONDS:
            request = archive_pb2.GetBaselinesRequest(run=run, stage=stage)
            reply = await self._archive.GetBaselines(request, timeout=30)
            baselines = tuple(reply.baselines)
            if not reply.complete:
                return baselines
            self._baselines[run, stage] = (time.monotonic(), baselines)
        return baselines
