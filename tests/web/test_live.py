"""The page's live sources, without a browser."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest

from services.chassis.bus import Bus
from services.chassis.events import first
from services.local.processes import find_nats_server, free_port
from services.local.settings import ClientSettings
from services.web.live import RunLog


@contextmanager
def nats_server(port: int, log: Path, *flags: str) -> Iterator[None]:
    """A server whose log shows every request."""
    command = [str(find_nats_server()), "-a", "127.0.0.1", "-p", str(port), "-DV", "-l", str(log), *flags]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.kill()


def logged(log: Path, text: str) -> None:
    """Wait until a server's log holds the text."""
    while not log.exists() or text not in log.read_text():
        time.sleep(0.02)


async def test_facts_are_followed_again_after_a_server_that_did_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restart, before its streams are there: an open page must not stay without facts."""
    port, log = free_port(), tmp_path / "nats.log"
    monkeypatch.setenv("ASI_NATS_URL", f"nats://127.0.0.1:{port}")
    settings = ClientSettings(nats_url=f"nats://127.0.0.1:{port}", data_dir=tmp_path)
    run_log = RunLog(settings, "r1")
    async with asyncio.timeout(60), aclosing(run_log.facts()) as facts:
        with nats_server(port, log):  # without JetStream
            await asyncio.to_thread(logged, log, "Server is ready")
            seen = asyncio.create_task(anext(facts))
            await asyncio.to_thread(logged, log, "STREAM.INFO")
        log = tmp_path / "second.log"
        with nats_server(port, log, "-js", "-sd", str(tmp_path / "jetstream")):
            await asyncio.to_thread(logged, log, "Server is ready")
            event = first("r1", "started", "console")
            event.run_started.note = "a run"
            async with Bus(settings, "test") as bus:
                await bus.set_up()
                await bus.publish(event)
            newest = await seen
            await run_log.close()

    assert len(newest) == 1
