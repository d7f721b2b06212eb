"""Several systems on one machine: ports, locks, folders of processes."""

import asyncio
import json
import os
import resource
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from services.chassis import tasks
from services.chassis.bus import Bus
from services.chassis.bus.topology import OLDEST, require_durability
from services.chassis.errors import BusLost, NotPossible, SettingsError, Transient
from services.chassis.events import first
from services.chassis.settings import ServiceSettings
from services.local.log import log_environment
from services.local.processes import PORTS, Broker, end_orphans, free_port
from services.local.settings import ClientSettings, LogInUse, locked, running_system
from services.local.system import System, running

PICK = "from services.local.processes import free_port; print(free_port(range({0}, {1})))"


def test_a_port_is_free_and_not_used_twice() -> None:
    """Outside of what the kernel takes for outgoing connections."""
    ports = [free_port() for _ in range(50)]

    assert len(set(ports)) == 50
    assert set(ports) <= set(PORTS)
    with socket.socket() as service:
        service.bind(("127.0.0.1", ports[0]))


def test_another_process_gets_another_port() -> None:
    """Though nobody listens on it yet; and one that is listened on is given to nobody."""
    first = free_port()
    with socket.socket() as service:
        service.bind(("127.0.0.1", 0))
        service.listen()
        taken = service.getsockname()[1]
        for low in (first, taken):
            process = subprocess.run(
                [sys.executable, "-c", PICK.format(low, low + 1)], capture_output=True, text=True, check=False
            )
            assert "is taken" in process.stderr
        with pytest.raises(OSError, match="is taken"):
            free_port(range(taken, taken + 1))


def test_a_data_folder_that_cannot_be_created_is_named_with_its_setting(tmp_path: Path) -> None:
    """As a file, or a folder below one."""
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            pytest.raises(SettingsError, match=f"ASI_DATA_DIR={place} cannot be created"),
            locked(ClientSettings(data_dir=place)),
        ):
            pass


async def test_a_data_folder_that_cannot_be_written_is_named_with_its_setting(tmp_path: Path) -> None:
    """When it is locked, and when the broker and the services write to it."""
    lock, broker = ClientSettings(data_dir=tmp_path / "lock"), ClientSettings(data_dir=tmp_path / "broker")
    lock.lock_file.mkdir(parents=True)
    broker.data_dir.mkdir()
    (broker.data_dir / "nats").touch()

    with pytest.raises(SettingsError, match=f"ASI_DATA_DIR={lock.data_dir} cannot be written"), locked(lock):
        pass
    with pytest.raises(NotPossible, match=f"ASI_DATA_DIR={broker.data_dir} cannot be used: .*nats: File exists"):
        async with running(broker, {}):
            pass


def test_a_system_runs_as_long_as_its_folder_is_locked(tmp_path: Path) -> None:
    """Not as long as some process has the number that it had."""
    settings = ClientSettings(data_dir=tmp_path)
    settings.system_file.write_text(json.dumps({"pid": os.getpid(), "nats_url": "nats://127.0.0.1", "addresses": {}}))

    assert running_system(settings) is None
    with locked(settings) as free, locked(settings) as again:
        system = running_system(settings)
        assert (free, again) == (True, False)
        assert system is not None
        assert system.pid == os.getpid()
    assert running_system(settings) is None


def test_two_brokers_never_work_on_the_same_files(tmp_path: Path) -> None:
    """Each would overwrite what the other has acknowledged. A folder may have any name."""
    folder = tmp_path / 'the "ü" of \\t'
    first, second = Broker(folder), Broker(folder)
    first.start()
    try:
        with pytest.raises(LogInUse, match=r"another command uses the event log in /.*ü") as refused:
            second.start(patience=0.1)
        assert refused.value.url == first.url
        assert (folder / "jetstream").is_dir()
        first.kill()
        second.start(patience=0.1)
    finally:
        first.stop()
        second.stop()


def test_commands_share_the_broker_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each starts one if no system runs: `asi-arch replay` during an audit, or while a run starts its services."""
    monkeypatch.delenv("ASI_NATS_URL", raising=False)
    settings = ClientSettings(data_dir=tmp_path)
    with log_environment(settings) as first:
        with log_environment(settings) as second:
            assert second == first
        with log_environment(settings) as third:  # the second has not ended it
            assert third == first
    with log_environment(settings) as later:
        assert later != first


async def test_a_run_that_waits_for_the_log_can_be_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export, say, uses it for longer."""
    monkeypatch.delenv("ASI_NATS_URL", raising=False)
    settings, stop = ClientSettings(data_dir=tmp_path), asyncio.Event()
    with log_environment(settings):
        asyncio.get_running_loop().call_later(0.3, stop.set)
        with pytest.raises(KeyboardInterrupt):
            async with asyncio.timeout(5), running(settings, {}, stop):
                pass


async def test_a_broker_that_could_not_write_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stores nothing more after that, also when other programs have freed the disk. (A limit stands for its end.)"""
    monkeypatch.delenv("ASI_NATS_URL", raising=False)
    system = System(ClientSettings(data_dir=tmp_path), {})
    broker = system.broker
    assert broker is not None
    broker.start()
    try:
        async with Bus(system.client, "tests") as bus:
            await bus.set_up()
            assert system.supervise() == []
            assert broker.pid is not None
            resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (1 << 12, resource.RLIM_INFINITY))
            started = first("r1", "started", "console")
            started.run_started.note = os.urandom(1 << 15).hex()
            with pytest.raises(Transient, match="or its disk is full"):
                await bus.publish(started)

        events = system.supervise()
        async with Bus(system.client, "tests") as bus:
            assert await bus.publish(started) == 1
        assert [event.partition(":")[0] for event in events] == ["the broker was started again after a write error"]
        assert system.supervise() == []
    finally:
        broker.stop()


async def test_a_broker_whose_reserve_is_full_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes three quarters of the free space at its start, and refused events until it was restarted by hand."""
    monkeypatch.delenv("ASI_NATS_URL", raising=False)
    system, room = System(ClientSettings(data_dir=tmp_path), {}), shutil.disk_usage(tmp_path)
    subject = "asi.v1.r1.run.started"
    assert system.broker is not None
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room._replace(free=1 << 20))
    system.broker.start()
    try:
        async with Bus(system.client, "tests") as bus:
            await bus.set_up()
            with pytest.raises(Transient, match="`max_file_store` is full"):
                await asyncio.gather(*(bus.publish_body(subject, f"{n}", os.urandom(1 << 17)) for n in range(20)))
        events = [system.supervise(), system.supervise()]
        monkeypatch.setattr(shutil, "disk_usage", lambda _: room._replace(free=1 << 30))
        events.append(system.supervise())
        async with Bus(system.client, "tests") as bus:
            assert await bus.publish_body(subject, "last", os.urandom(1 << 17)) > 1
    finally:
        system.broker.stop()

    assert [event.partition(":")[0] for sentences in events for event in sentences] == [
        "the broker stores nothing until there is room for its files",
        "the broker was started again after a full reserve of 786432 bytes",
    ]


@pytest.mark.parametrize(
    "answer",
    [
        b"no HTTP\r\n",
        *(
            b"HTTP/1.0 200 OK\r\n\r\n" + body
            for body in (b"<html>", b"[1]", b'{"error": 1, "storage": "much", "config": []}', b"[" * 9999)
        ),
    ],
    ids=["no HTTP", "HTML", "a list", "other types", "nested"],
)
async def test_a_stranger_on_the_monitoring_port_ends_no_run(
    answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have taken the port between two starts of the broker. Whether that one syncs is then unknown."""
    monkeypatch.delenv("ASI_NATS_URL", raising=False)
    system = System(ClientSettings(data_dir=tmp_path), {})
    assert system.broker is not None

    class Stranger(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(answer)

    with socketserver.TCPServer(("127.0.0.1", system.broker.monitor_port), Stranger) as server:
        answering = threading.Thread(target=server.serve_forever, args=[0.01])
        answering.start()
        try:
            assert system.supervise() == []
            unknown = ServiceSettings(nats_monitor_url=system.broker.monitor_url, require_durable_broker=True)
            with pytest.raises(BusLost, match="monitoring does not answer"):
                await require_durability(unknown, OLDEST)
        finally:
            server.shutdown()
            answering.join(10)


async def test_work_is_cancelled_by_a_stop_and_has_cleaned_up_before_the_interrupt_is_raised() -> None:
    """A second signal meanwhile changes nothing."""
    stop, cleaned = asyncio.Event(), []

    async def work() -> None:
        try:
            stop.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            cleaned.append(True)

    async def answer() -> int:
        return 7

    with pytest.raises(KeyboardInterrupt):
        await tasks.unless_stopped(work(), stop)
    assert cleaned == [True]
    assert await tasks.unless_stopped(answer(), asyncio.Event()) == 7


def test_only_processes_of_the_same_folder_are_ended(tmp_path: Path) -> None:
    """The numbers in a file that was left behind may be those of another system's services by now."""
    script = "import time; print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", script, "-m services.store"]
    own, other = (
        subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "ASI_DATA_DIR": str(tmp_path / name)})
        for name in ("own", "other")
    )
    try:
        for process in (own, other):
            assert process.stdout is not None
            process.stdout.readline()
        end_orphans([own.pid, other.pid], tmp_path / "own", seconds=0.2)

        assert own.wait(10) < 0
        assert other.poll() is None
    finally:
        for process in (own, other):
            process.kill()
            process.communicate(timeout=10)
