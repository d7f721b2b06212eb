"""All services on one machine, each in its own process; `answering` starts read-only services for a query."""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import BaseModel

from services.chassis import tasks
from services.chassis.bus import Bus
from services.chassis.bus.access import seed_variable
from services.chassis.bus.topology import require_broker
from services.chassis.errors import NotPossible, SettingsError, Transient, sentence
from services.chassis.rpc import channel, require_server
from services.local.processes import Broker, ServiceFailed, ServiceProcess, end_orphans, free_port
from services.local.settings import ClientSettings, LogInUse, RunningSystem, locked, running_system

# The store starts first, since it creates the streams, and stops last, to apply the events of the others.
ORDER = ("store", "analyst", "judge", "engineer", "researcher")
MONITOR_SECONDS = 0.5
WRITE_ERROR = "write error: "
ROOM_BYTES = 64 << 20
"""Free space from which a broker that could not write is started again: it takes three quarters of it."""
LOG_SECONDS = 10.0  # that another command may use the log
START_SECONDS = 300.0  # a failed start is detected at once; this limit is for busy machines
ADDRESSES = {"store": "archive", "engineer": "checker", "analyst": "cognition", "judge": "judge"}


class AlreadyRunning(NotPossible):
    """Another system works on this data folder."""


class System:
    """The processes of one machine. Use `running` to start and drain them."""

    def __init__(
        self, settings: ClientSettings, extra: Mapping[str, str], interrupted: asyncio.Event | None = None
    ) -> None:
        """Choose ports; `extra` are settings for all services. A broker is planned unless ASI_NATS_URL names one."""
        self._interrupted = interrupted or asyncio.Event()
        self._write_error = ""  # of the broker
        self.settings = settings
        self.broker = None if "ASI_NATS_URL" in os.environ else Broker(settings.data_dir / "nats")
        self.ports = {name: free_port() for name in ORDER}
        logs = settings.data_dir / "logs"
        self.services = {
            name: ServiceProcess(name, {**self._environment(name), **extra}, logs / f"{name}.log") for name in ORDER
        }

    @property
    def nats_url(self) -> str:
        return self.broker.url if self.broker else self.settings.nats_url

    @property
    def description(self) -> RunningSystem:
        """What other commands know of it."""
        addresses = {api: self._address(name) for name, api in ADDRESSES.items()}
        return RunningSystem(os.getpid(), self.nats_url, addresses)

    @property
    def client(self) -> ClientSettings:
        return self.description.client(self.settings)

    async def start(self) -> None:
        """Start everything and wait until all answer. Raises ServiceFailed, SettingsError, BusLost without a broker."""
        self.settings.data_dir.mkdir(parents=True, exist_ok=True)
        left_behind: list[int] = []  # processes of a system whose runner was killed
        with contextlib.suppress(OSError, ValueError, KeyError):
            content = json.loads(self.settings.system_file.read_text())
            left_behind = [int(process) for process in content["pids"].values()]
        end_orphans(left_behind, self.settings.data_dir)
        if self.broker is None:
            await require_broker(self.nats_url)
        else:
            await _start_broker(self.broker)
            with contextlib.suppress(Transient):  # else they come later by themselves
                async with Bus(self.client, "asi-run") as bus:
                    await bus.take_back()  # what the last system handed back when it ended
        self.services["store"].start()
        self._write_file()
        await self._wait_for("store")
        for name in ORDER[1:]:
            self.services[name].start()
        for name in ORDER[1:]:
            await self._wait_for(name)
        self._write_file()

    def supervise(self) -> list[str]:
        """Restart processes that have ended, and a broker that cannot write its files; sentences on what happened.

        After an interrupt, which may have reached all of them, only the broker and the store: the others need these in
        order to hand back their work.
        """
        ended = ["broker"] if self.broker and self.broker.supervise() else []
        names = ORDER[:1] if self._interrupted.is_set() else ORDER
        ended += [name for name in names if self.services[name].supervise()]
        events = [f"the {name} ended unexpectedly and was started again" for name in ended]
        if ended:
            self._write_file()
        return events + (self._restart_full_broker(self.broker) if self.broker else [])

    def _restart_full_broker(self, broker: Broker) -> list[str]:
        """Restart a broker that could not write, after which it stores nothing more, once there is room."""
        known, self._write_error = self._write_error, _write_error(broker)
        if self._write_error and _has_room(broker.folder):
            broker.stop()
            broker.start()
            self._write_file()
            return [f"the broker was started again after a {self._write_error}"]
        if self._write_error and not known:
            return [f"the broker stores nothing until there is room for its files: {self._write_error}"]
        return []

    async def stop(self) -> None:
        """Drain all services, the store last, then the broker."""
        workers = [self.services[name] for name in ORDER[1:]]
        for service in workers:
            service.terminate()
        patience = self.settings.grace_seconds + 20
        await asyncio.gather(*(asyncio.to_thread(service.wait, patience) for service in workers))
        self.services["store"].terminate()
        await asyncio.to_thread(self.services["store"].wait, patience)
        if self.broker:
            await asyncio.to_thread(self.broker.stop)
        with contextlib.suppress(FileNotFoundError):
            self.settings.system_file.unlink()

    async def _wait_for(self, name: str) -> None:
        async with channel(self._address(name), self.settings) as connection:
            check = health_pb2_grpc.HealthStub(connection).Check  # type: ignore[attr-defined]
            deadline = asyncio.get_running_loop().time() + START_SECONDS
            while asyncio.get_running_loop().time() < deadline:
                self.services[name].supervise()
                with contextlib.suppress(grpc.aio.AioRpcError):
                    answer = await check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=False)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                await asyncio.sleep(0.1)
        raise ServiceFailed(f"the {name} did not come up in {START_SECONDS:g} seconds; see {self.services[name].log}")

    def _environment(self, name: str) -> dict[str, str]:
        environment = {f"ASI_{api.upper()}_ADDRESS": self._address(service) for service, api in ADDRESSES.items()}
        if self.broker:
            environment |= {"ASI_NATS_MONITOR_URL": self.broker.monitor_url, "ASI_REQUIRE_DURABLE_BROKER": "true"}
        guarded = seed_variable(name) in os.environ  # then only the broker's administrator may create streams
        return environment | {
            "ASI_NATS_URL": self.nats_url,
            "ASI_DATA_DIR": str(self.settings.data_dir.absolute()),
            "ASI_LISTEN": self._address(name),
            "ASI_CREATE_STREAMS": "false" if guarded else "true",
            "OMP_NUM_THREADS": "1",
        }

    def _address(self, name: str) -> str:
        return f"127.0.0.1:{self.ports[name]}"

    def _write_file(self) -> None:
        """Write the description for other commands, with the processes for the next system of this folder."""
        pids = {name: service.process.pid for name, service in self.services.items() if service.process}
        content = {**asdict(self.description), "pids": pids | ({"broker": self.broker.pid} if self.broker else {})}
        temporary = self.settings.system_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=2))
        temporary.replace(self.settings.system_file)


def _write_error(broker: Broker) -> str:
    """The error for which the broker stores nothing more, empty if none; also records how much it has stored."""
    error, jetstream = _monitored(broker, "/healthz", _Health).error, _monitored(broker, "/jsz", _JetStream)
    broker.stored, limit = jetstream.storage, jetstream.config.max_storage
    if WRITE_ERROR in error:
        return error[error.index(WRITE_ERROR) :]
    return f"full reserve of {limit} bytes" if limit is not None and broker.stored > limit else ""


class _Health(BaseModel):
    error: str = ""


class _Config(BaseModel):
    max_storage: int | None = None


class _JetStream(BaseModel):
    storage: int = 0
    config: _Config = _Config()


Report = TypeVar("Report", bound=BaseModel)


def _monitored(broker: Broker, path: str, report: type[Report]) -> Report:
    """What the broker's monitoring says; its defaults while it does not answer."""
    monitor = http.client.HTTPConnection("127.0.0.1", broker.monitor_port, timeout=MONITOR_SECONDS)
    try:
        monitor.request("GET", path)
        return report.model_validate_json(monitor.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException):  # it is starting, or another process has its port
        return report()
    finally:
        monitor.close()


def _has_room(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # it may be read-only, or have a quota
            file.write(bytes(1 << 20))
    except OSError:
        return False
    return shutil.disk_usage(folder).free > ROOM_BYTES


async def _start_broker(broker: Broker) -> None:
    """Start it as soon as no other command uses the log. Raises LogInUse after LOG_SECONDS, and as `Broker.start`."""
    deadline = time.monotonic() + LOG_SECONDS
    while True:
        try:
            return broker.start(patience=0.0)
        except LogInUse:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.1)


@asynccontextmanager
async def running(
    settings: ClientSettings, extra: Mapping[str, str], stop: asyncio.Event | None = None
) -> AsyncIterator[System]:
    """A running system, drained at the end. Raises AlreadyRunning; KeyboardInterrupt if `stop` is set at its start."""
    with locked(settings) as free:
        if not free:
            holder = running_system(settings)
            raise AlreadyRunning(
                f"a system of {settings.data_dir} is already running{f' (process {holder.pid})' if holder else ''}: "
                "stop it, or set ASI_DATA_DIR to another folder"
            )
        system = System(settings, extra, stop)
        try:
            try:
                await (system.start() if stop is None else tasks.unless_stopped(system.start(), stop))
            except OSError as error:
                raise NotPossible(f"ASI_DATA_DIR={settings.data_dir} cannot be used: {sentence(error)}") from error
            yield system
        finally:
            await system.stop()


SERVES = {"archive": "store", "cognition": "analyst", "judge": "judge"}
READERS = {
    "archive": ("services.store.reader",),
    "cognition": ("services.analyst.tools", "serve"),
    "judge": ("services.judge.tools", "serve"),
}
"""Programs that serve one service's API without a running system."""


@asynccontextmanager
async def service_addresses(settings: ClientSettings, *names: str) -> AsyncIterator[dict[str, str]]:
    """Variables with the address of each of `names` (archive first): ASI_ARCHIVE_ADDRESS and so on.

    Addresses come from the environment, else the running system, else a reader that is started. Raises NotFound without
    an archive, SettingsError when a reader does not start, and Transient if no service answers at a variable's address.
    """
    variables: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        for name in names:
            variable = f"ASI_{name.upper()}_ADDRESS"
            system = running_system(settings)
            if address := os.environ.get(variable):
                async with channel(address, settings) as connection:
                    await require_server(connection, address, variable)
            elif system is not None:
                address = system.addresses[name]
            else:
                address = await stack.enter_async_context(_reader(settings, name, variables))
            variables[variable] = address
        yield variables


@asynccontextmanager
async def _reader(settings: ClientSettings, name: str, variables: Mapping[str, str]) -> AsyncIterator[str]:
    if name == "archive":
        settings.require_archive()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *READERS[name], env={**os.environ, **variables},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: S101, PT018
    try:
        port = (await process.stdout.readline()).decode().strip()
        if not port:
            reason = (await process.stderr.read()).decode().strip().rpartition("\n")[2]
            raise SettingsError(f"the {SERVES[name]} cannot answer: {reason or 'it gave no reason'}")
        yield f"127.0.0.1:{port}"
    finally:
        process.stdin.close()  # which ends it
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 5)
        if process.returncode is None:
            process.kill()
