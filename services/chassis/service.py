"""Running a service: settings, logs, bus, gRPC server and workers are started together and drained on SIGTERM."""

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from services.chassis import logs, metrics, tasks, telemetry
from services.chassis.bus import Bus
from services.chassis.bus.access import connect_options
from services.chassis.bus.topology import durables_of, require_durability
from services.chassis.errors import BusLost, Denied, SettingsError, Transient
from services.chassis.logs import get_logger
from services.chassis.poison import CrashNotes
from services.chassis.rpc import Server, key_files
from services.chassis.settings import ServiceSettings, described, load
from services.chassis.worker import Handler, Worker

S = TypeVar("S", bound=ServiceSettings)
T = TypeVar("T")
GARBAGE_AFTER = 10_000  # allocations; the default of 700 suits short-lived programs
UNHEALTHY_EXIT = 70
SETTINGS_EXIT = 2


@dataclass
class Service:
    """A running service's parts. `app.py` of each service fills it in."""

    name: str
    settings: ServiceSettings
    bus: Bus
    server: Server
    workers: list[Worker] = field(default_factory=list)
    tasks: list[Coroutine[None, None, None]] = field(default_factory=list)
    rpc_names: list[str] = field(default_factory=list)
    healthy: Callable[[], bool] = lambda: True  # in addition to the connection to the broker
    conditions: dict[str, Callable[[], bool]] = field(default_factory=dict)  # reported by name
    crash_notes: CrashNotes | None = None  # shared by all workers

    async def work(self, durable: str, handler: Handler, parallel: int) -> None:
        """Add a worker for a durable consumer. Raises BusLost if it does not exist."""
        consumer = await self.bus.consumer(durable)
        for counter in (metrics.REDELIVERIES, metrics.DEAD_LETTERS):
            counter.labels(durable)  # start at 0: Prometheus does not see an increase from absent to one
        self.crash_notes = notes = self.crash_notes or CrashNotes(self.bus)
        heartbeat = self.settings.silence_seconds / 4
        self.workers.append(Worker(self.bus, consumer, durable, self.name, handler, parallel, heartbeat, notes))

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set or a part fails, then drain."""
        await self.server.start(*self.rpc_names)
        await self.server.report(healthy=True)
        get_logger().info("started", port=self.server.port)
        parts: list[asyncio.Task[None]] = [asyncio.create_task(worker.run()) for worker in self.workers]
        parts += [asyncio.create_task(task) for task in self.tasks]
        parts.append(asyncio.create_task(self._watch_health()))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({stopped, *parts}, return_when=asyncio.FIRST_COMPLETED)
        failed = [part for part in parts if part.done()]
        await self.server.report(healthy=False)
        get_logger().info("draining", busy=sum(worker.busy for worker in self.workers))
        await asyncio.gather(*(worker.drain(self.settings.grace_seconds) for worker in self.workers))
        await tasks.end(*parts)
        await self.server.stop(2)
        for part in failed:
            part.result()

    async def _watch_health(self) -> None:
        """Report the service as unhealthy while the broker or its own dependencies are unavailable."""
        while True:
            await asyncio.sleep(2)
            await self.server.report(healthy=self.bus.connected and self.healthy())
            for name, condition in self.conditions.items():
                await self.server.report(healthy=condition(), name=name)


Build = Callable[[Service, S], AbstractAsyncContextManager[None]]
Require = Callable[[S], None]
"""Raises SettingsError for settings that the service could not use; called before the broker is waited for."""


@asynccontextmanager
async def wired(name: str, settings: S, build: Build[S], require: Require[S] | None = None) -> AsyncIterator[Service]:
    """A service connected and built, not yet running. Tests use this with settings of their own."""
    connect_options(settings)
    key_files(settings)
    if require is not None:
        await asyncio.to_thread(require, settings)
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(Bus(settings, f"asi-{name}"))
        await require_durability(settings, bus.server_version)
        if settings.create_streams:
            await bus.set_up()
        if differences := await bus.compare(durables_of(name) or None):
            raise SettingsError(f"{differences[0]}; run `asi-arch setup` (differences: {len(differences)})")
        service = Service(name, settings, bus, Server(settings))
        await stack.enter_async_context(build(service, settings))
        yield service


async def _serve(name: str, settings: S, build: Build[S], require: Require[S] | None) -> None:
    stop, begun = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def serve() -> None:
        telemetry.start(name, settings.otlp_endpoint)
        try:
            async with wired(name, settings, build, require) as service:
                if settings.metrics_listen:
                    metrics.serve(settings.metrics_listen)
                begun.set()
                await service.run(stop)
        finally:
            await asyncio.to_thread(telemetry.stop)

    serving = asyncio.create_task(serve())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if begun.is_set():  # else nothing is in hand: it may still wait for the broker
        await asyncio.wait({serving}, timeout=settings.grace_seconds + 15)
    await tasks.end(serving, stopping)
    if not serving.cancelled():
        serving.result()


def main(name: str, kind: type[S], build: Build[S], require: Require[S] | None = None) -> None:
    """The body of every `python -m services.<name>`.

    Exits 2 for invalid settings or permissions, and if streams or consumers are missing or differ; 70 if the broker or
    another dependency is lost. An argument other than --help is refused: without a broker a service would wait.
    """
    if arguments := sys.argv[1:]:
        if not {"-h", "--help"}.intersection(arguments):
            sys.stderr.write(f"{arguments[0]} is not understood: see `python -m services.{name} --help`.\n")
            sys.exit(SETTINGS_EXIT)
        models = "" if name == "store" else " Those of language models: deploy/mind.example.toml."
        print(f"Settings of the {name}, as variables of the environment.{models}\n\n{described(kind, name)}")
        return
    logs.configure(name)
    try:
        settings = load(kind, name)
        logs.configure(name, settings.log_level)
        run_on_uvloop(_serve(name, settings, build, require))
    except (SettingsError, Denied) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(SETTINGS_EXIT)
    except (BusLost, Transient, OSError) as error:
        get_logger().error("the service cannot continue", error=str(error))
        sys.exit(UNHEALTHY_EXIT)
    get_logger().info("stopped")


def run_on_uvloop(main_coroutine: Coroutine[None, None, T]) -> T:
    """As `asyncio.run`, on uvloop, which is a quarter faster; rarer garbage collections save another tenth."""
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER)
    if sys.platform == "win32":
        return asyncio.run(main_coroutine)
    import uvloop

    return uvloop.run(main_coroutine)
