"""A message that kills the process which handles it, against a real nats-server and real processes."""

import asyncio
import re
import signal
import sys

import pytest

from services.chassis.bus import Bus
from services.chassis.events import Cause, first, follow
from services.chassis.settings import ServiceSettings
from services.local.processes import Broker
from tests.chassis.test_worker import facts

CHILD = """
import asyncio, os, signal, sys
from services.chassis.bus import Bus
from services.chassis.poison import CrashNotes
from services.chassis.settings import ServiceSettings
from services.chassis.worker import Worker

async def main(url, deadly):
    async def handle(job):
        if job.event.candidate == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        sys.stdout.write("handled " + job.event.candidate + chr(10)); sys.stdout.flush()
        return []
    async with Bus(ServiceSettings(nats_url=url, silence_seconds=2), "child") as bus:
        worker = Worker(bus, await bus.consumer("judge"), "judge", "judge", handle, 4, 0.5, CrashNotes(bus))
        await asyncio.wait_for(worker.run(), 120)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
async def test_a_message_that_kills_its_process_becomes_a_dead_letter_and_spares_the_others(broker: Broker) -> None:
    """Whatever the handler is; the candidates in the same process are handled as if nothing were."""
    settings = ServiceSettings(nats_url=broker.url, silence_seconds=2)
    handled, deaths = list[str](), 0
    async with Bus(settings, "tests") as bus:
        await bus.set_up()
        started = Cause.published(first("r1", "started", "console"))
        for number in range(6):
            trained = follow(started, "trained", "engineer", 1, f"c{number:06}")
            trained.candidate_trained.stage = "tiny"
            await bus.publish(trained)
        async with asyncio.timeout(120):
            while not any(event.HasField("dead") for event in await facts(bus)):
                child = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", CHILD, broker.url, "c000003", stdout=asyncio.subprocess.PIPE
                )
                ending = asyncio.create_task(child.communicate())
                while not ending.done() and not any(event.HasField("dead") for event in await facts(bus)):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
                if not ending.done():
                    child.terminate()
                out, _ = await ending
                handled += re.findall(r"handled (c\d+)", out.decode())
                deaths += child.returncode == -signal.SIGKILL
        (dead,) = [event for event in await facts(bus) if event.HasField("dead")]

    assert "3 processes crashed while they handled only this message" in dead.dead.reason
    assert dead.candidate == "c000003"
    assert deaths == 5
    assert set(handled) == {f"c{number:06}" for number in (0, 1, 2, 4, 5)}
