"""The engineer as a service."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.chassis.errors import SettingsError
from services.chassis.service import wired
from services.chassis.settings import ServiceSettings
from services.engineer.app import build, require
from services.engineer.settings import EngineerSettings


async def test_an_idle_engineer_ends_if_so_configured(settings: ServiceSettings) -> None:
    """An unneeded GPU job costs money."""
    shared = settings.model_copy(update={"listen": "127.0.0.1:0"}).model_dump(exclude_none=True)
    async with wired("engineer", EngineerSettings(**shared, idle_seconds=0.5), build) as service:
        started = time.monotonic()
        await asyncio.wait_for(service.run(asyncio.Event()), 60)

        assert time.monotonic() - started >= 0.5


def test_the_process_of_an_engineer_needs_no_torch() -> None:
    """Its start would take three times as long, with 200 MB more memory for each replica; its sandbox has torch."""
    code = "import sys, services.engineer.app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert not {"torch", "transformers", "lm_eval", "datasets", "fla"} & set(loaded)


def test_an_engineer_whose_folder_cannot_be_written_does_not_start(settings: ServiceSettings, tmp_path: Path) -> None:
    """It would fail in every training."""
    (tmp_path / "file").touch()
    shared = settings.model_copy(update={"data_dir": tmp_path / "file" / "data"}).model_dump(exclude_none=True)
    with pytest.raises(SettingsError, match=r"ASI_DATA_DIR=.*/file/data cannot be written: Not a directory\."):
        require(EngineerSettings(**shared))


@pytest.mark.slow
async def test_an_engineer_needs_only_the_data_of_benchmarks_it_scores(
    settings: ServiceSettings,
) -> None:
    """A scale's own may come from the hub, which not every machine reaches."""
    shared = settings.model_copy(update={"listen": "127.0.0.1:0"}).model_dump(exclude_none=True)
    async with wired(
        "engineer", EngineerSettings(**shared, stages="explore", tasks="copying,induction"), build, require
    ) as process:
        assert [worker.busy for worker in process.workers] == [0]
    with pytest.raises(SettingsError, match="task no_such_task cannot be loaded"):
        require(EngineerSettings(**shared, tasks="no_such_task"))
