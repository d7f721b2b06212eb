"""A sandbox without confinement, for tests of messages: the child's job runs in a thread."""

import asyncio
import importlib
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from services.sandbox import JSON, Child, ChildTimeout, Limits, Message, Sandbox
from services.sandbox.processes import Usage

CHECK = "services.engineer.checks.child:run"
NO_ARRAYS: Mapping[str, np.ndarray] = {}


@dataclass
class Pipe:
    """Both directions, and both ends."""

    down: "queue.Queue[Message]" = field(default_factory=queue.Queue)
    up: "queue.Queue[Message]" = field(default_factory=queue.Queue)


class ChildEnd:
    """The channel that the job gets."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def receive(self) -> Message:
        return self._pipe.down.get()

    def send(
        self, kind: str, header: Mapping[str, JSON] | None = None, arrays: Mapping[str, np.ndarray] = NO_ARRAYS
    ) -> None:
        self._pipe.up.put(Message(kind, dict(header or {}), {n: array.copy() for n, array in arrays.items()}))


class HostEnd:
    """The child as the host sees it; it records the messages sent."""

    def __init__(self, pipe: Pipe, sent: list[Message]) -> None:
        self._pipe, self.sent = pipe, sent

    async def send(self, kind: str, header: Mapping[str, JSON], arrays: Mapping[str, np.ndarray] = NO_ARRAYS) -> None:
        note = Message(kind, dict(header), {name: array.copy() for name, array in arrays.items()})
        self.sent.append(note)
        self._pipe.down.put(note)

    def usage(self) -> Usage:
        return Usage(1 << 20, time.process_time(), 1, 0)

    def processor_seconds(self) -> float:
        return time.process_time()

    def processes(self) -> list[int]:
        return []

    def fault(self, late: ChildTimeout) -> ChildTimeout:
        return late

    async def receive(self, timeout: float) -> Message:  # noqa: ASYNC109
        try:
            return await asyncio.to_thread(self._pipe.up.get, True, timeout)
        except queue.Empty:
            raise ChildTimeout(f"no answer within {timeout} s") from None


class InlineSandbox(Sandbox):
    """Runs jobs in threads. `jobs` replaces a job by a function, to simulate a hostile or broken child."""

    def __init__(self, jobs: Mapping[str, Callable[[ChildEnd], None]] | None = None) -> None:
        self.level = "none"
        self._jobs = dict(jobs or {})
        self._checks = asyncio.Lock()  # probes seed this process's generators: the two children of a check take turns
        self.sent: dict[str, list[Message]] = {}

    @asynccontextmanager
    async def child(self, job: str, limits: Limits) -> AsyncIterator[Child]:  # noqa: ARG002
        module, name = job.split(":")
        function = self._jobs.get(job) or getattr(importlib.import_module(module), name)
        pipe = Pipe()
        async with self._checks if job == CHECK else nullcontext():
            thread = threading.Thread(target=function, args=(ChildEnd(pipe),), daemon=True)
            thread.start()
            yield cast("Child", HostEnd(pipe, self.sent.setdefault(job, [])))
            pipe.down.put(Message("end", {}, {}))
            await asyncio.to_thread(thread.join, 5)
