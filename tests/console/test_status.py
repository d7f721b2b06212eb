"""`pause`, `resume` and `stop` in a script, and commands without an answer."""

import asyncio
import sys
from pathlib import Path

import pytest

from services.chassis.bus import Bus, Logged
from services.chassis.bus.subjects import subject_of
from services.chassis.events import body_of, first
from services.chassis.settings import ServiceSettings
from services.contracts.events_pb2 import Event
from services.local.processes import free_port
from services.store.backends import opened
from tests.archive_server import KnownArchive, served
from tests.console.conftest import asi_arch, bare_environment


async def test_a_command_returns_when_the_archive_has_its_event(
    bus: Bus, settings: ServiceSettings, tmp_path: Path
) -> None:
    """The next command of a script reads the phase that this one has made."""
    archive = KnownArchive()
    for attempt in (1, 2):
        event = first("r1", "resumed", "console", attempt)
        event.run_resumed.SetInParent()
        await bus.publish(event)
    async with served(archive) as address:
        environment = bare_environment(tmp_path, ASI_NATS_URL=settings.nats_url, ASI_ARCHIVE_ADDRESS=address)
        command = [sys.executable, "-m", "services.console", "pause"]
        pausing = await asyncio.create_subprocess_exec(*command, env=environment)
        async with asyncio.timeout(60):
            async for logged in bus.follow(start=3):  # which is the pause
                if logged is not None:
                    break
            await asyncio.sleep(1)
            early = pausing.returncode
            archive.put()
            archive.put(phase="paused")  # as of the third event
            status = await pausing.wait()

    assert early is None
    assert status == 0


async def test_a_run_is_not_resumed_while_nothing_runs(
    bus: Bus, settings: ServiceSettings, started: Event, tmp_path: Path
) -> None:
    """Its time would count although nothing works on it; the command that starts the services continues it."""
    paused = first("r1", "paused", "console")
    paused.run_paused.reason = "by hand"
    async with opened(f"sqlite:///{tmp_path}/archive.db") as archive:
        for sequence, event in enumerate((started, paused), start=1):
            await archive.apply([Logged(sequence, subject_of(event), body_of(event))])
    environment = bare_environment(tmp_path, ASI_NATS_URL=settings.nats_url)
    resuming = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.console", "resume", env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, said = await resuming.communicate()

    assert resuming.returncode == 1
    assert said.decode() == (
        f"asi-arch: nothing runs in {tmp_path}, and the time of a resumed run counts: `asi-arch run --resume` starts "
        "the services and continues it\n"
    )
    assert await bus.last_sequence() == 0


@pytest.mark.parametrize(
    ("argument", "message"),
    [("", "the argument after --fork is empty: "), ("--run=", "--run is empty: "), ("\udcff", "'?' is not UTF-8")],
)
async def test_what_scripts_may_give_by_mistake_starts_no_search(argument: str, message: str, tmp_path: Path) -> None:
    """`--fork "$SOURCE"`, without that variable, began a new run, and `--out ""` wrote to the current folder."""
    done = await asi_arch(bare_environment(tmp_path, ASI_NATS_URL="nats://127.0.0.1:1"), "run", "--fork", argument)

    assert done.status == 2
    assert message in done.err


async def test_a_dead_address_is_named_at_once_with_its_setting(tmp_path: Path) -> None:
    """A refused connection is known immediately; the commands waited half a minute, and `run` five minutes."""
    program = tmp_path / "program.py"
    program.write_text("x = 1\n")
    nowhere = f"127.0.0.1:{free_port()}"
    commands = {
        "ASI_ARCHIVE_ADDRESS": (nowhere, "status"),
        "ASI_CHECKER_ADDRESS": (nowhere, "check", str(program)),
        "ASI_NATS_URL": (f"nats://{nowhere}", "run"),
    }
    async with asyncio.timeout(25):
        ended = await asyncio.gather(
            *(
                asi_arch(bare_environment(tmp_path / variable, **{variable: address}), *command)
                for variable, (address, *command) in commands.items()
            )
        )

    for variable, done in zip(commands, ended, strict=True):
        assert done.status == 1
        assert "answers at" in done.err
        assert nowhere in done.err
        assert f"or correct {variable}" in done.err
