"""A system under scheduled faults: a real broker, real services as processes, instant training."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc.aio
import nats.errors
import nats.js.errors

from services.chassis.bus import Bus
from services.chassis.errors import BusLost, Transient
from services.chassis.events import first
from services.chassis.rpc import channel
from services.chassis.service import SETTINGS_EXIT
from services.chassis.settings import ServiceSettings
from services.contracts import archive_pb2, archive_pb2_grpc, events_pb2
from services.local.processes import Broker, ends_with_parent, free_port
from services.store.backends import open_archive
from services.store.replay import replay
from tests.chaos.cluster import Cluster
from tests.chaos.faults import RUN, Faults
from tests.chaos.invariants import Evidence, broken
from tests.chaos.schedules import Schedule
from tests.mongod import Mongod

T = TypeVar("T")
SILENCE_SECONDS = 8.0
LOOK_SECONDS = 0.25
TOOL_SECONDS = 120.0
END_SECONDS = 180.0  # for the start of a run, and for its drain and replay


@dataclass
class Part:
    """One service as a process, which is restarted unless a fault keeps it down."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    down_until: float = 0.0
    refusal: str = ""  # its message when it exited with SETTINGS_EXIT

    def restart(self) -> None:
        """Start the process if it is not running and no fault keeps it down."""
        if self.process is not None and self.process.poll() is None:
            return
        if self.process is not None and self.process.returncode == SETTINGS_EXIT:
            self.refusal = self.log.read_text(errors="replace").strip().rpartition("\n")[2]
        if time.monotonic() < self.down_until or self.refusal:
            return
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                ends_with_parent(self.command),
                env=self.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process is running."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


@dataclass
class System:
    """The broker, database and services of one run. Use `run_schedule`."""

    folder: Path
    archive_url: str
    schedule: Schedule
    broker: Broker | Cluster
    database: Mongod | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    archive_lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # one fault of the archive at a time
    broker_lock: threading.Lock = field(default_factory=threading.Lock)  # held while the broker starts or is killed

    def __post_init__(self) -> None:
        ports = {name: f"127.0.0.1:{free_port()}" for name in ("archive", "checker", "cognition", "judge")}
        shared = {
            "ASI_NATS_URL": self.broker.url,
            "ASI_NATS_MONITOR_URL": self.broker.monitor_url,
            "ASI_REQUIRE_DURABLE_BROKER": "true",
            "ASI_DATA_DIR": str(self.folder),
            "ASI_CREATE_STREAMS": "true",
            "ASI_SILENCE_SECONDS": f"{SILENCE_SECONDS:g}",
            "ASI_GRACE_SECONDS": "3",
            "ASI_LOG_LEVEL": "warning",
            "OMP_NUM_THREADS": "1",
            "CHAOS_FOLDER": str(self.folder),
            "CHAOS_TRAINING_SECONDS": f"{self.schedule.training_seconds:g}",
            "CHAOS_POISON": ",".join(self.schedule.poison),
            **{f"ASI_{name.upper()}_ADDRESS": address for name, address in ports.items()},
        }
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        inherited["PYTHONPATH"] = str(Path(__file__).parents[2])
        listens = {"store": "archive", "judge": "judge", "analyst": "cognition", "engineer-0": "checker"}
        for name in ("store", "judge", "analyst", "researcher", "engineer-0", "engineer-1"):
            kind = name.partition("-")[0]
            module = (
                ["tests.chaos.instant_services", kind] if kind in ("researcher", "engineer") else [f"services.{kind}"]
            )
            own = {"ASI_LISTEN": ports[listens[name]]} if name in listens else {}
            if kind == "store":
                own["ASI_ARCHIVE_URL"] = self.archive_url
            command = [sys.executable, "-m", *module]
            self.parts[name] = Part(name, command, {**inherited, **shared, **own}, self.folder / f"{name}.log")
        self.settings = ServiceSettings(
            nats_url=self.broker.url, data_dir=self.folder, create_streams=True, archive_address=ports["archive"],
            silence_seconds=SILENCE_SECONDS,
        )  # fmt: skip
        self.broker_down_until: float | None = None

    async def set_up(self, replicas: int) -> None:
        """Run `asi-arch setup`, again until a new cluster has elected a leader."""
        environment = {**self.parts["store"].environment, "ASI_ARCHIVE_URL": self.archive_url}
        command = [sys.executable, "-m", "services.store.tools", "setup", "--replicas", str(replicas)]
        for _ in range(10):
            status, output = await _ended(command, environment)
            if status == 0:
                return
        raise RuntimeError(f"asi-arch setup failed: {output}")

    def restart(self) -> None:
        """Restart what ended, as a supervisor does."""
        with self.broker_lock:
            if self.broker_down_until is not None and time.monotonic() >= self.broker_down_until:
                self.broker.start()
                self.broker_down_until = None
        for part in self.parts.values():
            part.restart()

    async def run(self, candidates: int, seconds: float) -> archive_pb2.RunStatus:
        """Start a run, inject the faults of the schedule, and wait for its end. Raises TimeoutError with the state."""
        faults = list(self.schedule.faults)
        injecting: set[asyncio.Task[None]] = set()
        status = archive_pb2.RunStatus()
        deadline = time.monotonic() + seconds
        async with channel(self.settings.archive_address, self.settings) as connection:
            archive = archive_pb2_grpc.ArchiveStub(connection)
            while True:
                await asyncio.to_thread(self.restart)
                await self._handle_refusals()
                with contextlib.suppress(grpc.aio.AioRpcError):
                    status = await archive.GetRun(archive_pb2.RunRequest(run=RUN), timeout=2)
                ended = status.states.get("archived", 0) + status.states.get("rejected", 0)
                while faults and ended >= faults[0].after * candidates:
                    injecting.add(asyncio.create_task(Faults(self).inject(faults.pop(0))))
                for task in [task for task in injecting if task.done()]:
                    injecting.discard(task)
                    task.result()
                    status = archive_pb2.RunStatus()  # that of before: the archive may be another one
                busy = status.in_flight or faults or injecting or self.broker_down_until is not None
                if status.phase == "finished" and not busy:
                    return status
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{dict(status.states)}, {status.in_flight} in flight; to come: {faults}")
                await asyncio.sleep(LOOK_SECONDS)

    async def _handle_refusals(self) -> None:
        """Services that refuse to continue are not restarted; a damaged log and a damaged archive are repaired."""
        for name, part in self.parts.items():
            if not part.refusal:
                continue
            if name == "store" and "damaged or no SQLite file" in part.refusal:
                async with self.archive_lock:  # wait until the fault has restored the file
                    part.refusal, part.process = "", None
                continue
            if name != "store" or "the event log is damaged" not in part.refusal:
                raise RuntimeError(f"the {name} refuses to go on: {part.refusal}")
            await self._recover()

    async def _recover(self) -> None:
        """Run `asi-arch recover`, as the store's message says, and restart the services."""
        store = self.parts["store"]
        self.messages.append(store.refusal)
        await self.drain()
        environment = {**store.environment, "ASI_NATS_URL": self.broker.url}
        command = [sys.executable, "-m", "services.store.tools", "recover"]
        status, output = await _ended(command, environment)
        if status:
            raise RuntimeError(f"asi-arch recover failed: {output}")
        self.messages.append(output)
        store.refusal, store.process = "", None

    async def drain(self) -> None:
        """SIGTERM to all services, the store last; those that do not end in time are killed and reported."""
        for part in self.parts.values():
            part.signal(signal.SIGCONT)
        workers = [part for name, part in self.parts.items() if name != "store"]
        for group in (workers, [self.parts["store"]]):
            for part in group:
                part.signal(signal.SIGTERM)
            for part in group:
                if part.process is not None:
                    try:
                        await asyncio.to_thread(part.process.wait, 40)
                    except subprocess.TimeoutExpired:
                        self.messages.append(f"the {part.name} did not drain")
                        part.process.kill()
                        part.process.wait(20)

    async def retry(self, work: Callable[[Bus], Awaitable[T]]) -> T:
        """Retry `work` until the broker answers: faults may coincide, and a cluster takes time to elect a leader."""
        while True:
            try:
                async with asyncio.timeout(60), Bus(self.settings, "chaos") as bus:
                    return await work(bus)
            except (Transient, BusLost, TimeoutError, nats.errors.Error, nats.js.errors.Error):
                await asyncio.sleep(0.5)


async def _ended(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """The exit status and output of a tool; it is killed after two minutes."""
    tool = await asyncio.create_subprocess_exec(
        *ends_with_parent(command), env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        out, _ = await asyncio.wait_for(tool.communicate(), TOOL_SECONDS)
    finally:
        if tool.returncode is None:
            tool.kill()
    return tool.returncode or 0, out.decode(errors="replace").strip()


def run_settings(candidates: int) -> events_pb2.RunSettings:
    """A run of so many candidates, eight in flight."""
    return events_pb2.RunSettings(
        scale="tiny", mind="offline", seats=8, baselines=["delta_net"], fitness="paper",
        budget=events_pb2.Budget(candidates=candidates),
        pool=events_pb2.PoolSettings(size=50, parents=10, references=4, cold_start=5, batch=50),
    )  # fmt: skip


async def run_schedule(
    schedule: Schedule, folder: Path, archive_url: str, candidates: int, seconds: float, brokers: int = 1,
    database: Mongod | None = None,
) -> list[str]:  # fmt: skip
    """One run under a schedule, with one broker or a cluster; a sentence for each invariant that is broken.

    `database` is the server of `archive_url`, if that is not a file.
    """
    broker = Broker(folder / "nats") if brokers == 1 else Cluster(folder / "nats")
    system = System(folder, archive_url, schedule, broker, database)
    try:
        async with asyncio.timeout(seconds + 2 * END_SECONDS):  # beside the limit of each part
            await asyncio.to_thread(broker.start)
            await system.set_up(brokers)
            event = first(RUN, "started", "console")
            event.run_started.settings.CopyFrom(run_settings(candidates))
            await system.retry(lambda bus: bus.publish(event))
            status = await system.run(candidates, seconds)
            await system.drain()
            evidence = await _evidence(system, status)
    finally:
        for part in system.parts.values():
            part.signal(signal.SIGCONT)
            part.signal(signal.SIGKILL)
        system.broker.stop()
    violations = broken(evidence)
    if schedule.stops and not any("the event log is damaged" in line for line in system.messages):
        violations.append("the damaged log was not named")
    violations += _damaged_copies(folder)
    return [*violations, *(line for line in system.messages if "did not drain" in line)]


def _damaged_copies(folder: Path) -> list[str]:
    """Errors of a cluster's servers about unreadable copies, which the other servers may mask."""
    damaged = []
    for log in sorted(folder.glob("nats/n*/log")):
        damage = [line for line in log.read_text(errors="replace").splitlines() if "Critical write error" in line]
        damaged += [f"{log.parent.name}: {line}" for line in damage[:1]]
    return damaged


async def _evidence(system: System, status: archive_pb2.RunStatus) -> Evidence:
    archive = open_archive(system.archive_url)
    await archive.open()
    again = await system.retry(lambda bus: replay(bus, RUN, None, archive))
    log = [row async for row in archive.log(RUN)]
    tree = await archive.tree(RUN)
    records = [await archive.record(RUN, node.id) for node in tree]
    damage = await archive.damage()
    await archive.close()
    executions = (system.folder / "executions").read_text().splitlines()
    system.broker.stop()
    schedule = system.schedule
    return Evidence(
        system.folder, status, records, log, again, executions, schedule.guilty, schedule.taken, damage
    )  # fmt: skip
