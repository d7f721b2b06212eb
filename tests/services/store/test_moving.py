"""A run written out here and brought in elsewhere is the same run."""

import pytest
from archive_stories import Story

from services.chassis.bus import Bus
from services.chassis.errors import SettingsError
from services.chassis.settings import ServiceSettings
from services.console.local.broker import Broker
from services.store import tools
from services.store.backends import open_archive
from services.store.reactions import react
from services.store.settings import StoreSettings


async def command(settings: StoreSettings, *arguments: str) -> int:
    """One command of the store's tool in this process."""
    return await tools.main(tools._parser().parse_args(arguments), settings)


async def digest(settings: StoreSettings) -> tuple[str, int]:
    """Of run r1, as an archive has it."""
    archive = open_archive(settings.archive)
    await archive.open()
    found = await archive.digest("r1")
    await archive.close()
    return found


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
async def test_an_exported_log_comes_to_the_same_digest_elsewhere(
    bus: Bus, settings: ServiceSettings, finished: Story, kind: str
) -> None:
    """Another broker, another archive, the same events to the byte."""
    folder = settings.data_dir
    here = StoreSettings(nats_url=settings.nats_url, data_dir=folder)
    for one in finished.log:
        await bus.publish_body(one.subject, f"{one.sequence}", one.body)
    archive = open_archive(here.archive)
    await archive.open()
    await archive.apply(finished.log, react)
    await archive.close()
    broker = Broker(folder / "elsewhere" / "nats")
    broker.start()
    try:
        there = StoreSettings(nats_url=broker.url, data_dir=folder / "elsewhere")
        path = folder / f"r1.{kind}"
        assert await command(here, "export", "r1", "--format", kind, "--out", str(path)) == 0
        assert await command(there, "import", kind, str(path)) == 0
    finally:
        broker.stop()

    assert await digest(there) == await digest(here)


async def test_a_table_that_holds_no_events_is_refused_by_name(bus: Bus, settings: ServiceSettings) -> None:
    """As somebody else's file would be."""
    import pyarrow
    import pyarrow.parquet

    here = StoreSettings(nats_url=settings.nats_url, data_dir=settings.data_dir)
    path = settings.data_dir / "strange.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), path)
    with pytest.raises(SettingsError, match=r"strange\.parquet is no table of events"):
        await command(here, "import", "parquet", str(path))
