"""Acknowledged and applied events survive a power loss."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.chassis.bus import Bus
from services.chassis.settings import ServiceSettings
from services.local.processes import Broker, find_nats_server, free_port
from services.store.backends import open_archive
from tests.chaos.power_loss import after_power_loss, watched
from tests.store.conftest import finished
from tests.store.simulation import Simulation

__all__ = ["finished"]  # the fixture

NO_STRACE = "no strace, which writes down what is synced: install it with the system's package manager"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("strace") is None, reason=NO_STRACE)]
CRASH_CHILD = Path(__file__).parents[1] / "store" / "backends" / "crash_child.py"


MAX_SECONDS = 180.0


@contextlib.contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """In a group of its own: strace and what it watches are killed together, with the context or after three minutes.

    So whoever reads its output reads the end of it then, and never waits for ever.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, text=True
    )
    limit = threading.Timer(MAX_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
    limit.start()
    try:
        yield process
    finally:
        limit.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)


@pytest.mark.parametrize(("interval", "keeps_all"), [("always", True), ("2m", False)])
async def test_acknowledged_events_outlive_a_loss_of_power(
    tmp_path: Path, finished: Simulation, interval: str, keeps_all: bool
) -> None:
    """With `sync_interval: always`. Without it they are lost, which shows that the rehearsal is one."""
    folder, trace, port = tmp_path / "before", tmp_path / "trace", free_port()
    config = tmp_path / "nats.conf"
    config.write_text(f'port: {port}\njetstream {{ store_dir: "{folder}", sync_interval: {interval} }}\n')
    with _started(watched([str(find_nats_server()), "-c", str(config)], trace)) as server:
        settings = ServiceSettings(nats_url=f"nats://127.0.0.1:{port}")
        async with asyncio.timeout(MAX_SECONDS), Bus(settings, "tests") as bus:
            await bus.set_up()
            acknowledged = [await bus.publish_body(message.subject, "", message.body) for message in finished.log[:40]]
            os.killpg(server.pid, signal.SIGKILL)
    await asyncio.to_thread(after_power_loss, trace, folder, tmp_path / "after")
    broker = Broker(tmp_path / "after")
    broker.start()
    try:
        async with asyncio.timeout(MAX_SECONDS), Bus(ServiceSettings(nats_url=broker.url), "tests") as bus:
            await bus.set_up()
            remaining = [message.sequence async for message in bus.read_log()]
    finally:
        broker.stop()

    assert (remaining == acknowledged) is keeps_all


async def test_applied_events_outlive_a_loss_of_power(tmp_path: Path, finished: Simulation) -> None:
    """The embedded archive syncs each transaction before it reports it."""
    folder, log = tmp_path / "before", tmp_path / "log.json"
    folder.mkdir()
    log.write_text(
        json.dumps(
            [(message.sequence, message.subject, base64.b64encode(message.body).decode()) for message in finished.log]
        )
    )
    command = [sys.executable, str(CRASH_CHILD), f"sqlite:///{folder}/archive.db", str(log)]
    with _started(watched(command, tmp_path / "trace")) as child:
        assert child.stdout is not None
        reported = [int(await asyncio.to_thread(child.stdout.readline)) for _ in range(25)][-1]
        os.killpg(child.pid, signal.SIGKILL)
    await asyncio.to_thread(after_power_loss, tmp_path / "trace", folder, tmp_path / "after")
    archive = open_archive(f"sqlite:///{tmp_path}/after/archive.db")
    await archive.open()

    assert await archive.applied() >= reported
    assert await archive.damage() == []
    await archive.close()
