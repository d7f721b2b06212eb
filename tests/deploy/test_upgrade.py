"""An upgrade of a running system: the store and the others are new, the engineers still run the code of before."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from services.chassis.rpc import channel
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc
from services.local.log import start_run
from services.local.plan import RunOptions, run_settings
from services.local.processes import ServiceProcess
from services.local.settings import ClientSettings
from services.local.system import System
from tests.loop.conftest import MICRO

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
OLD = ("engineer",)
# What the launcher of today sets and the code of before has no setting for.
NEWER = (
    "ASI_NATS_MONITOR_URL",
    "ASI_REQUIRE_DURABLE_BROKER",
    "ASI_SILENCE_SECONDS",
)
RECIPE = (*MICRO, "precision=fp32")
SECONDS = 400


def code_of_before(folder: Path) -> Path:
    """The packages as they were when the contracts were released, or at the commit before this one."""
    released = git("log", "-1", "--format=%H", "--", "proto/released.binpb")
    commit = released if released and released != git("rev-parse", "HEAD") else git("rev-parse", "HEAD~1")
    if not commit:
        pytest.skip("needs the history of the repository, which this checkout does not have")
    archive = folder / "before.tar"
    subprocess.run(["git", "-C", ROOT, "archive", "-o", archive, commit, "services"], check=True)  # noqa: S607
    with tarfile.open(archive) as content:
        content.extractall(folder / "before", filter="data")
    return folder / "before"


def git(*arguments: str) -> str:
    """What git says, empty where it cannot."""
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)  # noqa: S607
    return done.stdout.strip() if done.returncode == 0 else ""


async def test_engineers_of_the_previous_version_work_with_a_new_store(tmp_path: Path) -> None:
    """A rolling upgrade passes through this: what is published on both sides is understood on the other."""
    before = code_of_before(tmp_path)
    settings = ClientSettings(data_dir=tmp_path / "data")
    system = System(settings, {"ASI_ENGINEER_TASKS": "copying,brackets"})
    for name in OLD:
        new = system.services[name]
        inherited = {key: value for key, value in new.environment.items() if key not in NEWER}
        own = {**inherited, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(before)}
        system.services[name] = ServiceProcess(name, own, new.log)
    await system.start()
    try:
        options = RunOptions(candidates=1, baselines=("delta_net", "linear_attention"), overrides=RECIPE)
        await start_run(system.client, "upgraded", run_settings(options))
        async with channel(system.client.archive_address, system.client) as connection:
            archive = archive_pb2_grpc.ArchiveStub(connection)
            async with asyncio.timeout(SECONDS):
                while await phase(archive) not in ("finished", "stopped"):
                    assert all(
                        service.process and service.process.poll() is None for service in system.services.values()
                    )
                    await asyncio.sleep(0.5)
            page = await archive.ListCandidates(pb.ListCandidatesRequest(run="upgraded", page_size=10), timeout=30)
    finally:
        await system.stop()
    trained = [record for record in page.candidates if record.training.HasField("loss")]

    assert len(trained) >= 2
    assert str(before) in found_by_the_old(before)


async def phase(archive: archive_pb2_grpc.ArchiveAsyncStub) -> str:
    """Of the run; empty until the store has heard of it."""
    runs = (await archive.ListRuns(pb.ListRunsRequest(), timeout=30)).runs
    return next((status.phase for status in runs if status.run == "upgraded"), "")


def found_by_the_old(folder: Path) -> str:
    """Where a process that is started as the old service is finds the packages."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(folder)}
    code = "import services; print(services.__path__)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout
