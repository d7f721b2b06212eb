"""What happens while a page is open: facts of the log and trainings in progress, shared by all pages of a run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypedDict

from google.protobuf.message import DecodeError

from services.chassis.errors import BusLost
from services.console.events import EventRow, event_row
from services.console.log import open_log
from services.console.settings import ConsoleSettings, running_system
from services.contracts import events_pb2

LATEST = 200
"""Events of a run that a newly opened page is shown."""
LOOK_SECONDS = 2.0
LEFT_SECONDS = 3.0
PROGRESS_SECONDS = 1.0
MOST_POINTS = 2000


class RunLog:
    """The newest facts of a run, followed while a laboratory keeps its log open."""

    def __init__(self, settings: ConsoleSettings, run: str) -> None:
        self._settings, self._run = settings, run
        self._latest: deque[EventRow] = deque(maxlen=LATEST)
        self._earlier: dict[str, EventRow] = {}  # the newest of each candidate: a fact carries only what it adds
        self._count = 0
        self._moved = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def facts(self) -> AsyncIterator[list[EventRow]]:
        """The latest facts, then every further one as it happens."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())
        seen = 0
        while True:
            async with self._moved:
                while self._count <= seen:
                    await self._moved.wait()
                fresh = list(self._latest)[-(self._count - seen) :]
                seen = self._count
            yield fresh

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _is_open(self) -> bool:
        return running_system(self._settings) is not None or "ASI_NATS_URL" in os.environ

    async def _follow(self) -> None:
        last = 0
        while True:
            if self._is_open():
                with contextlib.suppress(BusLost):
                    last = await self._follow_once(last)
            await asyncio.sleep(LOOK_SECONDS)

    async def _follow_once(self, last: int) -> int:
        """Until the broker has gone; the sequence of the last message seen."""
        silent = 0.0
        async with open_log(self._settings) as bus:
            start = last + 1 if last else max(1, await bus.last_sequence() + 1 - LATEST)
            async with contextlib.aclosing(bus.follow(f"asi.v1.{self._run}.>", start)) as log:
                async for logged in log:
                    silent = 0.0 if bus.connected else silent + 1.0
                    if silent > LEFT_SECONDS:
                        break
                    if logged is None:
                        continue
                    last = logged.sequence
                    with contextlib.suppress(DecodeError, ValueError):  # of a newer version: it is passed over
                        candidate = events_pb2.Event.FromString(logged.body).candidate
                        fact = event_row(logged, self._earlier.get(candidate))
                        self._earlier[candidate] = fact
                        async with self._moved:
                            self._latest.append(fact)
                            self._count += 1
                            self._moved.notify_all()
        return last


class Progress(TypedDict):
    """Where one training stands; `points` are (step, training loss) pairs since the last message."""

    candidate: str
    seed: int
    step: int
    steps: int
    tokens_per_second: float
    seconds: float
    points: list[tuple[int, float]]


class Trainings:
    """Live curves of a run's trainings, from what the engineers of this machine write below `progress/`."""

    def __init__(self, settings: ConsoleSettings, run: str) -> None:
        self._folder: Path = settings.data_dir / "progress" / run
        self._known: dict[str, Progress] = {}
        self._moved = asyncio.Condition()
        self._version = 0
        self._task: asyncio.Task[None] | None = None

    async def progress(self) -> AsyncIterator[dict[str, object]]:
        """All trainings in progress now with their curves so far, then what each adds; those that ended are named."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        sent: dict[str, int] = {}
        seen = 0
        while True:
            async with self._moved:
                while self._version <= seen:
                    await self._moved.wait()
                seen = self._version
                now = {key: Progress(**one) for key, one in self._known.items()}
            trainings: list[Progress] = []
            for key, one in now.items():
                fresh = [point for point in one["points"] if point[0] > sent.get(key, -1)]
                sent[key] = one["step"]
                trainings.append(Progress(**{**one, "points": fresh}))
            sent = {key: step for key, step in sent.items() if key in now}
            yield {"trainings": trainings}

    async def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _poll(self) -> None:
        while True:
            found = await asyncio.to_thread(_progress_files, self._folder)
            if found or self._known:
                async with self._moved:
                    self._take(found)
                    self._version += 1
                    self._moved.notify_all()
            await asyncio.sleep(PROGRESS_SECONDS)

    def _take(self, found: list[tuple[str, dict[str, object]]]) -> None:
        current: dict[str, Progress] = {}
        for candidate, metrics in found:
            try:
                seed, step, loss = (
                    int(str(metrics["seed"])),
                    int(str(metrics["step"])),
                    float(str(metrics["train_loss"])),
                )
                key = f"{candidate}/{seed}"
                known = self._known.get(key)
                points = list(known["points"]) if known and known["step"] <= step else []
                if not points or points[-1][0] < step:
                    points.append((step, loss))
                current[key] = Progress(
                    candidate=candidate, seed=seed, step=step, steps=int(str(metrics["steps"])),
                    tokens_per_second=float(str(metrics["tokens_per_second"])),
                    seconds=float(str(metrics["seconds"])), points=points[-MOST_POINTS:],
                )  # fmt: skip
            except (KeyError, ValueError):  # half of a newer version's: it is passed over
                continue
        self._known = current


def _progress_files(folder: Path) -> list[tuple[str, dict[str, object]]]:
    found: list[tuple[str, dict[str, object]]] = []
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                found.append((path.stem, content))
    return found
