"""`asi-arch watch` against a real store and a real nats-server."""

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import sys
from pathlib import Path

from services.chassis.settings import ServiceSettings
from services.contracts import events_pb2 as events
from tests.console.conftest import System, asi_arch, bare_environment
from tests.console.published_events import whole_way


async def test_each_event_is_one_json_object_and_watch_ends_with_the_run(system: System, started: events.Event) -> None:
    """Followed while it happens, with stable names and nothing where nothing was measured."""
    await system.bus.publish(started)
    await system.until("baselines")
    watching = asyncio.create_task(system.asi_arch("watch", "--from-start", "--json"))
    await whole_way(system.bus, fitness=0.5)
    await whole_way(system.bus, fitness=0.7)
    result = await watching
    rows = [json.loads(line) for line in result.out.splitlines()]

    assert result.status == 0, result.err
    assert [row["fact"] for row in rows][:3] == ["run.started", "candidate.requested", "candidate.proposed"]
    assert rows[-1]["fact"] == "run.stopped"
    assert [row["sequence"] for row in rows] == sorted(row["sequence"] for row in rows)
    assert [row["loss"] for row in rows if row["candidate"] == "c000002"][:2] == [None, None]
    assert [row["fitness"] for row in rows if row["fact"] == "candidate.judged"] == [0.5, 0.7]
    assert {"id", "run", "name", "stage", "service", "attempt", "benchmark", "judge", "reason", "time"} <= set(rows[0])


async def test_a_run_that_is_over_says_so_and_can_still_be_seen(system: System, started: events.Event) -> None:
    """The command does not wait for events that cannot come."""
    await system.bus.publish(started)
    await whole_way(system.bus)
    await whole_way(system.bus)
    await system.until("finished")
    nothing = await system.asi_arch("watch")
    result = await system.asi_arch("watch", "--from-start")

    assert nothing.status == 1
    assert "run r1 has finished" in nothing.err
    assert "c000002 judged Net2: judge 5.0, fitness 0.500" in result.out
    assert result.out.splitlines()[-1].startswith("run r1: finished; best Net")


async def test_on_a_terminal_candidates_in_flight_are_a_table_until_ctrl_c(
    system: System, started: events.Event
) -> None:
    """At 80 columns; the status is 0, as nothing was cut off."""
    await system.bus.publish(started)
    await whole_way(system.bus)
    await system.until("draining")
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.console", "watch", stdin=slave, stdout=slave, stderr=slave,
        env=system.environment | {"TERM": "xterm-256color"}, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    try:
        shown = await asyncio.to_thread(_read_until, master, "best Net1 (c000001)")
        process.send_signal(signal.SIGINT)
        rest = asyncio.create_task(asyncio.to_thread(_read_on, master))  # who does not read a terminal holds its writer
        status = await asyncio.wait_for(process.wait(), 30)
        await rest
    finally:
        if process.returncode is None:
            process.kill()
        os.close(master)

    assert status == 0
    assert "run r1 · draining" in shown
    assert re.search(r"c000002 .*requested, 0:\d\d", re.sub(r"\x1b\[[0-9;]*m", "", shown))


async def test_without_a_broker_there_is_a_message_and_no_wait(tmp_path: Path, settings: ServiceSettings) -> None:
    """A wrong address is the usual mistake."""
    done = await asi_arch(bare_environment(tmp_path, ASI_NATS_URL="nats://127.0.0.1:9"), "pause")

    assert done.status == 1
    assert len(done.err.splitlines()) == 1


def _read_on(terminal: int) -> None:
    with contextlib.suppress(OSError):  # the other end was closed
        while os.read(terminal, 65536):
            pass


def _read_until(terminal: int, word: str) -> str:
    shown = b""
    while word.encode() not in shown:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the other end was closed
            raise AssertionError(f"it ended before it showed {word!r}: {shown.decode()}") from None
    return shown.decode()
