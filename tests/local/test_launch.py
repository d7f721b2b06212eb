"""Runs that several commands start in one system at the same moment, and forks that are refused before it starts."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.chassis.bus import Bus, Logged
from services.chassis.bus.subjects import subject_of
from services.chassis.errors import SettingsError
from services.chassis.events import body_of, first
from services.contracts import archive_pb2 as arc
from services.contracts import events_pb2
from services.local.launch import Start, join
from services.local.log import steer_run
from services.local.plan import RunOptions, run_settings
from services.local.settings import ClientSettings, client_settings
from services.report.progress import Progress
from services.store.backends import opened
from services.store.ledger import RunLedger
from services.store.port import Archive, WriterState
from services.store.service import ArchiveService, Context
from tests.archive_server import Store, store
from tests.console.conftest import asi_arch, bare_environment

BUDGETS = (3, 4, 5)


class SimultaneousCommands(ArchiveService):
    """Answers all commands once each has asked which runs there are, so that none sees another's."""

    def __init__(self, archive: Archive, ledger: RunLedger, writer: WriterState | None = None) -> None:
        super().__init__(archive, ledger, writer)
        self._commands = asyncio.Barrier(len(BUDGETS))

    async def ListRuns(self, request: arc.ListRunsRequest, context: Context) -> arc.ListRunsReply:  # noqa: N802
        reply = await super().ListRuns(request, context)
        await self._commands.wait()
        return reply


@pytest_asyncio.fixture
async def deployed(bus: Bus) -> AsyncIterator[Store]:
    """A store; no engineer answers, so that programs and precision are not checked."""
    async with store(bus, SimultaneousCommands) as running:
        yield running


@pytest.fixture
def client(deployed: Store, nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClientSettings:
    """The settings of a console that uses that store."""
    monkeypatch.setenv("ASI_NATS_URL", nats_url)
    monkeypatch.setenv("ASI_ARCHIVE_ADDRESS", deployed.address)
    monkeypatch.setenv("ASI_DATA_DIR", str(tmp_path / "console"))
    return client_settings()


async def _join_at_once(client: ClientSettings, name: str | None) -> list[str | BaseException]:
    """Each with another budget of candidates."""

    def options(candidates: int) -> RunOptions:
        values = {"scale": "tiny", "candidates": candidates, "baselines": "delta_net", "set": {"precision": "fp32"}}
        return RunOptions.read(values)

    starts = (join(client, options(budget), Start(name), Progress(quiet=True)) for budget in BUDGETS)
    return await asyncio.gather(*starts, return_exceptions=True)


async def _budgets(running: Store) -> dict[str, int]:
    return {row.run: row.settings.budget.candidates for row in await running.archive.runs()}


async def test_of_several_commands_one_gets_the_name(client: ClientSettings, deployed: Store) -> None:
    """The others must not report a run that has the first one's settings."""
    answers = await _join_at_once(client, "night")

    refusals = [answer for answer in answers if isinstance(answer, SettingsError)]
    assert (answers.count("night"), len(refusals)) == (1, 2), answers
    assert {str(refusal).partition(":")[0] for refusal in refusals} == {"a run called night exists already"}
    assert await _budgets(deployed) == {"night": BUDGETS[answers.index("night")]}


async def test_runs_without_a_name_get_different_ones(client: ClientSettings, deployed: Store) -> None:
    """All of them choose the same next number before any of them has begun."""
    answers = await _join_at_once(client, None)

    assert sorted(map(str, answers)) == ["r1", "r2", "r3"]
    assert await _budgets(deployed) == dict(zip(map(str, answers), BUDGETS, strict=True))


async def test_a_command_repeated_in_the_same_second_has_an_effect(client: ClientSettings, bus: Bus) -> None:
    """Pause, resume, pause: the broker stores an id once, and the archive accepts it once."""
    pause, resume = events_pb2.RunPaused(), events_pb2.RunResumed()
    sequences = [await steer_run(client, "r1", command) for command in (pause, resume, pause, resume, pause)]

    assert sequences == sorted(set(sequences))
    assert len({message.body async for message in bus.read_log("asi.v1.r1.run.paused")}) == 3


@pytest.mark.parametrize(
    ("flags", "status", "reason"),
    [
        ("--fork first@99999", 1, "run first has no accepted event '99999'"),
        ("--fork first@first.r9", 1, "run first has no accepted event 'first.r9'"),
        ("--fork nobody", 1, "no run is called nobody"),
        ("--fork first --run first", 2, "a run called first exists already"),
        ("--fork first --resume", 2, "--fork begins a run and --resume continues one: give one of them"),
    ],
)
async def test_an_impossible_fork_is_refused_before_anything_starts(
    tmp_path: Path, flags: str, status: int, reason: str
) -> None:
    """The archive of the data folder knows all runs and events that a user can name."""
    event = first("first", "started", "console")
    event.run_started.settings.CopyFrom(run_settings(RunOptions()))
    async with opened(f"sqlite:///{tmp_path}/archive.db") as archive:
        await archive.apply([Logged(1, subject_of(event), body_of(event))])
    done = await asi_arch(bare_environment(tmp_path), "run", *flags.split())

    assert done.err.startswith(f"asi-arch: {reason}")
    assert done.status == status
    assert not (tmp_path / "logs").exists(), "services were started"
