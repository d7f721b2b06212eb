"""A short selection of what `make chaos` rehearses: nothing is lost, nothing counts twice, and all comes to its end."""

from pathlib import Path

import pytest

from tests.chaos.laboratory import rehearse
from tests.chaos.schedules import CUT, KILLS, MIXED, Schedule
from tests.mongod import Mongod

CANDIDATES = 24
MOST_SECONDS = 170.0


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [MIXED, CUT], ids=lambda schedule: schedule.name)
async def test_a_run_survives_its_schedule(schedule: Schedule, tmp_path: Path) -> None:
    """With the embedded archive."""
    assert await rehearse(schedule, tmp_path, f"sqlite:///{tmp_path}/archive.db", CANDIDATES, MOST_SECONDS) == []


@pytest.mark.slow
@pytest.mark.mongo
async def test_a_run_survives_kills_with_mongodb(mongod: Mongod, tmp_path: Path) -> None:
    """Each service once, then drains."""
    assert await rehearse(KILLS, tmp_path, f"{mongod.url}/chaos?replicaSet=rs0", CANDIDATES, MOST_SECONDS) == []
