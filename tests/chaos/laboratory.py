"""A laboratory whose parts are hurt on schedule: a real broker, real services as processes, instant training."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc.aio
import nats.errors
import nats.js.errors
import pymongo

from services.chassis.bus import Bus
from services.chassis.bus.topology import EVENTS
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
from tests.chaos.invariants import Evidence, broken
from tests.chaos.schedules import Fault, Schedule
from tests.mongod import Mongod

T = TypeVar("T")
RUN = "chaos"
SILENCE_SECONDS = 8.0
LOOK_SECONDS = 0.25
DRAIN_SECONDS = 7.0  # from one drain to the next
TOOL_SECONDS = 120.0
END_SECONDS = 180.0  # for the start of a run, and for its drain and replay


@dataclass
class Part:
    """One service as a process, kept up unless a fault holds it down."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    down_until: float = 0.0
    stopped_by_name: str = ""  # what it said when it refused to go on

    def keep_up(self) -> None:
        """Start it where it is not running and may."""
        if self.process is not None and self.process.poll() is None:
            return
        if self.process is not None and self.process.returncode == SETTINGS_EXIT:
            self.stopped_by_name = self.log.read_text(errors="replace").strip().rpartition("\n")[2]
        if time.monotonic() < self.down_until or self.stopped_by_name:
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
        """Send it, if there is anybody to send it to."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


@dataclass
class Laboratory:
    """Everything of one run. Use `rehearse`."""

    folder: Path
    archive_url: str
    schedule: Schedule
    broker: Broker | Cluster
    database: Mongod | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    archive_hurt: asyncio.Lock = field(default_factory=asyncio.Lock)  # one copy at a time
    broker_changing: threading.Lock = field(default_factory=threading.Lock)  # it starts or is killed, not both

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
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        kept["PYTHONPATH"] = str(Path(__file__).parents[2])
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
            self.parts[name] = Part(name, command, {**kept, **shared, **own}, self.folder / f"{name}.log")
        self.settings = ServiceSettings(
            nats_url=self.broker.url, data_dir=self.folder, create_streams=True, archive_address=ports["archive"],
            silence_seconds=SILENCE_SECONDS,
        )  # fmt: skip
        self.broker_down_until: float | None = None

    async def set_up(self, replicas: int) -> None:
        """As an operator does, until a new cluster has agreed on who leads."""
        environment = {**self.parts["store"].environment, "ASI_ARCHIVE_URL": self.archive_url}
        command = [sys.executable, "-m", "services.store.tools", "setup", "--replicas", str(replicas)]
        for _ in range(10):
            status, said = await _ended(command, environment)
            if status == 0:
                return
        raise RuntimeError(f"asi-arch setup failed: {said}")

    def keep_up(self) -> None:
        """Start again what died, as a supervisor does."""
        with self.broker_changing:
            if self.broker_down_until is not None and time.monotonic() >= self.broker_down_until:
                self.broker.start()
                self.broker_down_until = None
        for part in self.parts.values():
            part.keep_up()

    async def run(self, candidates: int, seconds: float) -> archive_pb2.RunStatus:
        """Start a run, hurt it on schedule, and wait for its end. Raises TimeoutError with what it waits for."""
        faults = list(self.schedule.faults)
        hurting: set[asyncio.Task[None]] = set()
        status = archive_pb2.RunStatus()
        deadline = time.monotonic() + seconds
        async with channel(self.settings.archive_address, self.settings) as connection:
            archive = archive_pb2_grpc.ArchiveStub(connection)
            while True:
                await asyncio.to_thread(self.keep_up)
                await self._look_after_the_stopped()
                with contextlib.suppress(grpc.aio.AioRpcError):
                    status = await archive.GetRun(archive_pb2.RunRequest(run=RUN), timeout=2)
                ended = status.states.get("archived", 0) + status.states.get("rejected", 0)
                while faults and ended >= faults[0].after * candidates:
                    hurting.add(asyncio.create_task(self._hurt(faults.pop(0))))
                for task in [task for task in hurting if task.done()]:
                    hurting.discard(task)
                    task.result()
                    status = archive_pb2.RunStatus()  # that of before: the archive may be another one
                busy = status.in_flight or faults or hurting or self.broker_down_until is not None
                if status.phase == "finished" and not busy:
                    return status
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{dict(status.states)}, {status.in_flight} in flight; to come: {faults}")
                await asyncio.sleep(LOOK_SECONDS)

    async def _look_after_the_stopped(self) -> None:
        """A supervisor starts nobody again who stopped by name: only for a damaged log does anyone know what to do."""
        for name, part in self.parts.items():
            if not part.stopped_by_name:
                continue
            if name == "store" and "damaged or no SQLite file" in part.stopped_by_name:
                async with self.archive_hurt:  # what it asks for: a sound file lies there again
                    part.stopped_by_name, part.process = "", None
                continue
            if name != "store" or "the event log is damaged" not in part.stopped_by_name:
                raise RuntimeError(f"the {name} refuses to go on: {part.stopped_by_name}")
            await self._recover()

    async def _recover(self) -> None:
        """The store has stopped by name: what its sentence says is done, and the services start again."""
        store = self.parts["store"]
        self.said.append(store.stopped_by_name)
        await self.drain()
        environment = {**store.environment, "ASI_NATS_URL": self.broker.url}
        command = [sys.executable, "-m", "services.store.tools", "recover"]
        status, said = await _ended(command, environment)
        if status:
            raise RuntimeError(f"asi-arch recover failed: {said}")
        self.said.append(said)
        store.stopped_by_name, store.process = "", None

    async def drain(self) -> None:
        """SIGTERM to all, the store last; what does not end in time is killed and told of."""
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
                        self.said.append(f"the {part.name} did not drain")
                        part.process.kill()
                        part.process.wait(20)

    def _targets(self, fault: Fault) -> list[Part]:
        if fault.target == "all":
            return list(self.parts.values())
        if fault.target == "engineers":
            return [part for name, part in self.parts.items() if name.startswith("engineer")]
        return [self.parts[fault.target]] if fault.target in self.parts else []

    async def _hurt(self, fault: Fault) -> None:
        match fault.kind:
            case "kill":
                for part in self._targets(fault):
                    part.down_until = time.monotonic() + fault.seconds
                    part.signal(signal.SIGKILL)
                if fault.target in ("broker", "all"):
                    await asyncio.to_thread(self._kill_broker, fault.seconds)
            case "drain":
                await self._drained(fault)
            case "freeze":
                await self._freeze(fault)
            case "delete consumer":
                await self._delete_consumers(fault)
            case "second store":
                await self._second_store(fault.seconds)
            case "garbage":
                await self._publish_garbage()
            case "repeat log":
                await self._repeat_log()
            case "delete archive" if self.database is not None:
                await self._drop_database()
            case "delete archive" | "garble archive" | "old archive" | "lock archive":
                await self._replace_archive(fault)
            case "full disk":
                await self._fill_disk(fault.seconds)
            case "kill database" | "freeze database":
                async with self.archive_hurt:
                    await self._stop_database(fault)
            case "cut log":
                await asyncio.to_thread(self._cut_log)
            case "lose log":
                await self._lose_log()

    async def _drained(self, fault: Fault) -> None:
        until = time.monotonic() + fault.seconds
        while True:
            for part in self._targets(fault):
                part.signal(signal.SIGTERM)
            if time.monotonic() >= until:
                return
            await asyncio.sleep(DRAIN_SECONDS)

    def _kill_broker(self, seconds: float) -> None:
        with self.broker_changing:
            self.broker.kill()
            self.broker_down_until = time.monotonic() + seconds

    async def _freeze(self, fault: Fault) -> None:
        frozen = [part.process.pid for part in self._targets(fault) if part.process and part.process.poll() is None]
        if fault.target == "broker" and self.broker.pid is not None:
            frozen.append(self.broker.pid)
        for process in frozen:
            os.kill(process, signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        for process in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    @contextlib.asynccontextmanager
    async def _bus(self) -> AsyncIterator[Bus]:
        async with Bus(self.settings, "chaos") as bus:
            yield bus

    async def _delete_consumers(self, fault: Fault) -> None:
        durable = {"engineers": "engineer-tiny"}.get(fault.target, fault.target)
        await self.insist(lambda bus: bus.remove_durable(durable))

    async def _second_store(self, seconds: float) -> None:
        first = self.parts["store"]
        environment = {**first.environment, "ASI_LISTEN": "127.0.0.1:0"}
        second = Part("second store", first.command, environment, self.folder / "second-store.log")
        second.keep_up()
        try:
            await asyncio.sleep(seconds)
        finally:
            second.signal(signal.SIGKILL)
            if second.process is not None:
                await asyncio.to_thread(second.process.wait, 20)

    async def _publish_garbage(self) -> None:
        async def publish(bus: Bus) -> None:
            place = await bus.last_sequence()
            unknown = events_pb2.Event(id=f"{RUN}.c000001.unknown.{place}", run=RUN).SerializeToString()
            started = await bus.body_at(1)
            for fact in ("requested", "proposed.tiny", "trained", "judged", "analysed"):
                for body in (b"", b"\xff\x00 no event", unknown, started):
                    await bus.publish_body(f"asi.v1.{RUN}.candidate.{fact}", "", body)

        await self.insist(publish)

    async def _repeat_log(self) -> None:
        async def repeat(bus: Bus) -> None:
            for message in [message async for message in bus.read_log()]:
                await bus.publish_body(message.subject, "", message.body)

        await self.insist(repeat)

    async def insist(self, work: Callable[[Bus], Awaitable[T]]) -> T:
        """Do it once the broker is there: two faults may come together, and a cluster takes its time to elect."""
        while True:
            try:
                async with asyncio.timeout(60), self._bus() as bus:
                    return await work(bus)
            except (Transient, BusLost, TimeoutError, nats.errors.Error, nats.js.errors.Error):
                await asyncio.sleep(0.5)

    async def _replace_archive(self, fault: Fault) -> None:
        file = Path(self.archive_url.removeprefix("sqlite:///"))
        async with self.archive_hurt:
            if fault.kind == "lock archive":
                with contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as other:
                    other.execute("BEGIN IMMEDIATE")
                    await asyncio.sleep(fault.seconds)
            else:
                await self._replaced(fault, file)

    async def _fill_disk(self, seconds: float) -> None:
        """As a full disk, for one process alone: no file grows. It lasts no longer than the process."""
        process = self.parts["store"].process
        if process is None or process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            await asyncio.sleep(seconds)
            if process.poll() is None:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    async def _stop_database(self, fault: Fault) -> None:
        assert self.database is not None  # such faults are drawn for MongoDB alone
        if fault.kind == "freeze database":
            self.database.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            self.database.signal(signal.SIGCONT)
        else:
            self.database.stop()
            await asyncio.sleep(fault.seconds)
            await asyncio.to_thread(self.database.start)

    async def _drop_database(self) -> None:
        def drop() -> None:
            with pymongo.MongoClient[dict[str, object]](self.archive_url) as client:
                client.drop_database(client.get_default_database().name)

        async with self.archive_hurt:
            await asyncio.to_thread(drop)

    async def _replaced(self, fault: Fault, file: Path) -> None:
        copy, garbage = file.with_suffix(".copy"), file.with_suffix(".garbage")
        await asyncio.to_thread(_copy, file, copy)
        if fault.kind == "garble archive":
            garbage.write_bytes(b"this is no database " * 1000)
            _put(garbage, file)
        elif fault.kind == "delete archive":
            _put(None, file)
        await asyncio.sleep(fault.seconds)
        garbage.unlink(missing_ok=True)
        if fault.kind == "delete archive":
            copy.unlink()
        else:
            _put(copy, file)

    def _cut_log(self) -> None:
        with self.broker_changing:
            self.broker.kill()
            blocks = sorted(self.folder.glob("nats/**/streams/EVENTS/msgs/*.blk"), key=lambda path: int(path.stem))
            content = blocks[-1].read_bytes()
            blocks[-1].write_bytes(content[: len(content) // 2])
            for index in self.folder.glob("nats/**/streams/EVENTS/msgs/index.db"):
                index.unlink()
            self.broker.start()

    async def _lose_log(self) -> None:
        async def lose(bus: Bus) -> None:
            await bus.remove_stream(EVENTS)
            await bus.set_up()

        await self.insist(lose)


async def _ended(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """The status of a tool, and what it said; killed after two minutes."""
    tool = await asyncio.create_subprocess_exec(
        *ends_with_parent(command), env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        out, _ = await asyncio.wait_for(tool.communicate(), TOOL_SECONDS)
    finally:
        if tool.returncode is None:
            tool.kill()
    return tool.returncode or 0, out.decode(errors="replace").strip()


def _copy(file: Path, copy: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as live, contextlib.closing(sqlite3.connect(copy)) as target:
        live.backup(target)


def _put(source: Path | None, file: Path) -> None:
    """Put a file, or none, in the place of a database, whose own leftovers would otherwise be read with it."""
    for leftover in (Path(f"{file}-wal"), Path(f"{file}-shm")):
        leftover.unlink(missing_ok=True)
    if source is None:
        file.unlink()
    else:
        source.replace(file)


def run_settings(candidates: int) -> events_pb2.RunSettings:
    """A run of so many candidates, eight in flight."""
    return events_pb2.RunSettings(
        scale="tiny", mind="offline", seats=8, baselines=["delta_net"], fitness="paper",
        budget=events_pb2.Budget(candidates=candidates),
        pool=events_pb2.PoolSettings(size=50, parents=10, references=4, cold_start=5, batch=50),
    )  # fmt: skip


async def rehearse(
    schedule: Schedule, folder: Path, archive_url: str, candidates: int, seconds: float, brokers: int = 1,
    database: Mongod | None = None,
) -> list[str]:  # fmt: skip
    """One run under a schedule, with one broker or a cluster; every invariant that is broken, a sentence each.

    `database` is what `archive_url` names, where that is no file.
    """
    broker = Broker(folder / "nats") if brokers == 1 else Cluster(folder / "nats")
    laboratory = Laboratory(folder, archive_url, schedule, broker, database)
    try:
        async with asyncio.timeout(seconds + 2 * END_SECONDS):  # beside the limit of each part
            await asyncio.to_thread(broker.start)
            await laboratory.set_up(brokers)
            event = first(RUN, "started", "console")
            event.run_started.settings.CopyFrom(run_settings(candidates))
            await laboratory.insist(lambda bus: bus.publish(event))
            status = await laboratory.run(candidates, seconds)
            await laboratory.drain()
            evidence = await _evidence(laboratory, status)
    finally:
        for part in laboratory.parts.values():
            part.signal(signal.SIGCONT)
            part.signal(signal.SIGKILL)
        laboratory.broker.stop()
    found = broken(evidence)
    if schedule.stops and not any("the event log is damaged" in line for line in laboratory.said):
        found.append("the damaged log was not named")
    found += _damaged_copies(folder)
    return [*found, *(line for line in laboratory.said if "did not drain" in line)]


def _damaged_copies(folder: Path) -> list[str]:
    """What the servers of a cluster say of copies that they cannot read; the others may hide it."""
    found = []
    for log in sorted(folder.glob("nats/n*/log")):
        damage = [line for line in log.read_text(errors="replace").splitlines() if "Critical write error" in line]
        found += [f"{log.parent.name}: {line}" for line in damage[:1]]
    return found


async def _evidence(laboratory: Laboratory, status: archive_pb2.RunStatus) -> Evidence:
    archive = open_archive(laboratory.archive_url)
    await archive.open()
    again = await laboratory.insist(lambda bus: replay(bus, RUN, None, archive))
    log = [row async for row in archive.log(RUN)]
    tree = await archive.tree(RUN)
    records = [await archive.record(RUN, node.id) for node in tree]
    damage = await archive.damage()
    await archive.close()
    executions = (laboratory.folder / "executions").read_text().splitlines()
    laboratory.broker.stop()
    schedule = laboratory.schedule
    return Evidence(
        laboratory.folder, status, records, log, again, executions, schedule.guilty, schedule.taken, damage
    )  # fmt: skip
