"""Injects the faults of a schedule into a running system."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import resource
import signal
import sqlite3
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import nats.js.errors
import pymongo

from services.chassis.bus import Bus
from services.chassis.bus.topology import EVENTS
from services.contracts import events_pb2
from tests.chaos.schedules import Fault

if TYPE_CHECKING:
    from tests.chaos.system import Part, System

RUN = "chaos"
DRAIN_SECONDS = 7.0  # from one drain to the next


@dataclass(frozen=True)
class Faults:
    """The faults of one system."""

    system: System

    def _targets(self, fault: Fault) -> list[Part]:
        if fault.target == "all":
            return list(self.system.parts.values())
        if fault.target == "engineers":
            return [part for name, part in self.system.parts.items() if name.startswith("engineer")]
        return [self.system.parts[fault.target]] if fault.target in self.system.parts else []

    async def inject(self, fault: Fault) -> None:
        """Inject one fault; returns when it has ended."""
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
            case "delete archive" if self.system.database is not None:
                await self._drop_database()
            case "delete archive" | "garble archive" | "old archive" | "lock archive":
                await self._replace_archive(fault)
            case "full disk":
                await self._fill_disk(fault.seconds)
            case "kill database" | "freeze database" | "step down":
                async with self.system.archive_lock:
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
        with self.system.broker_lock:
            self.system.broker.kill()
            self.system.broker_down_until = time.monotonic() + seconds

    async def _freeze(self, fault: Fault) -> None:
        frozen = [part.process.pid for part in self._targets(fault) if part.process and part.process.poll() is None]
        if fault.target == "broker" and self.system.broker.pid is not None:
            frozen.append(self.system.broker.pid)
        for process in frozen:
            os.kill(process, signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        for process in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    async def _delete_consumers(self, fault: Fault) -> None:
        durable = {"engineers": "engineer-tiny"}.get(fault.target, fault.target)

        async def delete(bus: Bus) -> None:
            with contextlib.suppress(nats.js.errors.NotFoundError):  # deleted by an earlier attempt
                await bus._js.delete_consumer(EVENTS, durable)

        await self.system.retry(delete)

    async def _second_store(self, seconds: float) -> None:
        first = self.system.parts["store"]
        environment = {**first.environment, "ASI_LISTEN": "127.0.0.1:0"}
        log = self.system.folder / "second-store.log"
        second = replace(first, name="second store", environment=environment, log=log, process=None)
        second.restart()
        try:
            await asyncio.sleep(seconds)
        finally:
            second.signal(signal.SIGKILL)
            if second.process is not None:
                await asyncio.to_thread(second.process.wait, 20)

    async def _publish_garbage(self) -> None:
        async def publish(bus: Bus) -> None:
            sequence = await bus.last_sequence()
            unknown = events_pb2.Event(id=f"{RUN}.c000001.unknown.{sequence}", run=RUN).SerializeToString()
            started = (await bus.message_at(1)).body
            for fact in ("requested", "proposed.tiny", "trained", "judged", "analysed"):
                for body in (b"", b"\xff\x00 no event", unknown, started):
                    await bus.publish_body(f"asi.v1.{RUN}.candidate.{fact}", "", body)

        await self.system.retry(publish)

    async def _repeat_log(self) -> None:
        async def repeat(bus: Bus) -> None:
            for message in [message async for message in bus.read_log()]:
                await bus.publish_body(message.subject, "", message.body)

        await self.system.retry(repeat)

    async def _replace_archive(self, fault: Fault) -> None:
        file = Path(self.system.archive_url.removeprefix("sqlite:///"))
        async with self.system.archive_lock:
            if fault.kind == "lock archive":
                with contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as locked:
                    locked.execute("BEGIN IMMEDIATE")
                    await asyncio.sleep(fault.seconds)
            else:
                await self._replaced(fault, file)

    async def _fill_disk(self, seconds: float) -> None:
        """As with a full disk, no file of the store's process can grow; ends with the process."""
        process = self.system.parts["store"].process
        if process is None or process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            await asyncio.sleep(seconds)
            if process.poll() is None:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    async def _stop_database(self, fault: Fault) -> None:
        assert self.system.database is not None  # such faults are drawn for MongoDB only
        if fault.kind == "freeze database":
            self.system.database.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            self.system.database.signal(signal.SIGCONT)
        elif fault.kind == "step down":
            await asyncio.to_thread(self._step_down, max(1, math.ceil(fault.seconds)))
            await asyncio.sleep(fault.seconds)
        else:
            self.system.database.stop()
            await asyncio.sleep(fault.seconds)
            await asyncio.to_thread(self.system.database.start)

    def _step_down(self, seconds: int) -> None:
        assert self.system.database is not None
        with pymongo.MongoClient[dict[str, object]](self.system.database.url, replicaSet="rs0") as client:  # a primary
            client.admin.command({"replSetStepDown": seconds, "force": True})

    async def _drop_database(self) -> None:
        def drop() -> None:
            with pymongo.MongoClient[dict[str, object]](self.system.archive_url) as client:
                client.drop_database(client.get_default_database().name)

        async with self.system.archive_lock:
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
        with self.system.broker_lock:
            self.system.broker.kill()
            blocks = sorted(
                self.system.folder.glob("nats/**/streams/EVENTS/msgs/*.blk"), key=lambda path: int(path.stem)
            )
            content = blocks[-1].read_bytes()
            blocks[-1].write_bytes(content[: len(content) // 2])
            for index in self.system.folder.glob("nats/**/streams/EVENTS/msgs/index.db"):
                index.unlink()
            self.system.broker.start()

    async def _lose_log(self) -> None:
        async def lose(bus: Bus) -> None:
            await bus.remove_stream(EVENTS)
            await bus.set_up()

        await self.system.retry(lose)


def _copy(file: Path, copy: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as live, contextlib.closing(sqlite3.connect(copy)) as target:
        live.backup(target)


def _put(source: Path | None, file: Path) -> None:
    """Replace a database by another file or delete it, with its journals."""
    for leftover in (Path(f"{file}-wal"), Path(f"{file}-shm")):
        leftover.unlink(missing_ok=True)
    if source is None:
        file.unlink()
    else:
        source.replace(file)
