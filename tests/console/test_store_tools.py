"""Commands whose tool opens the archive and the log itself, beside a store elsewhere."""

from pathlib import Path

from services.contracts import events_pb2 as events
from tests.console.conftest import System


async def test_a_tool_that_opens_the_archive_itself_creates_none(
    system: System, started: events.Event, tmp_path: Path
) -> None:
    """The address of a store is not enough for a replay; an empty archive would be compared with the log."""
    await system.bus.publish(started)
    await system.until("baselines")
    empty = tmp_path / "empty"
    environment = {**system.environment, "ASI_DATA_DIR": str(empty)}
    elsewhere = System(system.bus, system.archive, system.settings, environment)
    for command in ("replay", "export"):
        result = await elsewhere.asi_arch(command)

        assert result.status == 1
        assert result.err == (
            f"asi-arch: there is no archive sqlite:///{empty}/archive.db: set ASI_ARCHIVE_URL to the store's\n"
        )
    assert not empty.exists()
