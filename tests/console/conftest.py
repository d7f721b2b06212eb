"""A running store, and the command line as a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import grpc.aio
import pytest
import pytest_asyncio

from services.chassis.bus import Bus
from services.chassis.events import first
from services.chassis.rpc import channel
from services.chassis.service import wired
from services.chassis.settings import ServiceSettings
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc
from services.contracts import events_pb2 as events
from services.local.processes import free_port
from services.store.app import StoreSettings, build


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class System:
    """A store that works on the test's streams, and where the command line finds it."""

    bus: Bus
    archive: archive_pb2_grpc.ArchiveAsyncStub
    settings: ServiceSettings
    environment: dict[str, str]

    async def until(self, phase: str, run: str = "r1") -> pb.RunStatus:
        """Wait until the store has a run in this phase: it takes events in a moment after they are published."""
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    status = await self.archive.GetRun(pb.RunRequest(run=run), timeout=5)
                    if status.phase == phase:
                        return status
                await asyncio.sleep(0.05)

    async def asi_arch(self, *arguments: str, **more: str) -> Done:
        """Run the command line to its end; `more` are variables of its environment."""
        return await asi_arch(self.environment | more, *arguments)


async def asi_arch(environment: dict[str, str], *arguments: str) -> Done:
    """Run the command line to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.console", *arguments, env=environment,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return Done(process.returncode or 0, out.decode(), err.decode())


def bare_environment(data_dir: Path, **more: str) -> dict[str, str]:
    """Nothing of the caller's settings, a narrow terminal."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ASI_", "OPENAI_"))}
    return inherited | {"ASI_DATA_DIR": str(data_dir), "COLUMNS": "80", "OMP_NUM_THREADS": "1"} | more


@asynccontextmanager
async def living_store(settings: ServiceSettings) -> AsyncIterator[str]:
    """A store of this process; its address."""
    address = f"127.0.0.1:{free_port()}"
    shared = settings.model_copy(update={"listen": address}).model_dump(exclude_none=True)
    async with wired("store", StoreSettings(**shared), build) as service:
        stop = asyncio.Event()
        serving = asyncio.create_task(service.run(stop))
        yield address
        stop.set()
        await serving


@pytest_asyncio.fixture
async def system(bus: Bus, settings: ServiceSettings, tmp_path: Path) -> AsyncIterator[System]:
    """A store that follows this test's log."""
    async with living_store(settings) as address:
        environment = bare_environment(tmp_path, ASI_NATS_URL=settings.nats_url, ASI_ARCHIVE_ADDRESS=address)
        async with channel(address, settings) as connection:
            yield System(bus, archive_pb2_grpc.ArchiveStub(connection), settings, environment)


@pytest.fixture
def started() -> events.Event:
    """A run of one baseline and one proposal."""
    event = first("r1", "started", "console")
    event.run_started.settings.CopyFrom(
        events.RunSettings(
            scale="tiny", mind="offline", seats=1, seed=1, candidate_seeds=1, baseline_seeds=1,
            baselines=["delta_net"], fitness="paper", budget=events.Budget(candidates=1),
            pool=events.PoolSettings(size=4, parents=2, references=2, cold_start=3, batch=2),
        )
    )  # fmt: skip
    return event
