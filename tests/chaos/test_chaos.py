"""A short selection of `make chaos`: nothing is lost or counted twice, and each run ends."""

from pathlib import Path

import pytest

from tests.chaos.schedules import CUT, KILLS, LEADERS, MIXED, Schedule
from tests.chaos.system import run_schedule
from tests.mongod import Mongod

CANDIDATES = 24
MAX_SECONDS = 300.0  # for the run itself on a busy machine; 30 to 60 seconds are usual


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [MIXED, CUT], ids=lambda schedule: schedule.name)
async def test_a_run_survives_its_schedule(schedule: Schedule, tmp_path: Path) -> None:
    """With the embedded archive."""
    assert await run_schedule(schedule, tmp_path, f"sqlite:///{tmp_path}/archive.db", CANDIDATES, MAX_SECONDS) == []


@pytest.mark.slow
@pytest.mark.mongo
async def test_a_run_survives_kills_with_mongodb(mongod: Mongod, tmp_path: Path) -> None:
    """Each service once, then drains."""
    assert await run_schedule(KILLS, tmp_path, f"{mongod.url}/chaos?replicaSet=rs0", CANDIDATES, MAX_SECONDS) == []


@pytest.mark.slow
async def test_a_run_survives_the_death_of_the_leader_of_three_brokers(tmp_path: Path) -> None:
    """Set up with `asi-arch setup --replicas 3`: the two that are left hold every acknowledged event."""
    url = f"sqlite:///{tmp_path}/archive.db"
    assert await run_schedule(LEADERS, tmp_path, url, CANDIDATES, MAX_SECONDS, brokers=3) == []
