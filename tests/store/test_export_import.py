"""An exported run that is imported elsewhere is the same run."""

import base64
import json

import pytest

from services.chassis.bus import Bus
from services.chassis.errors import SettingsError
from services.chassis.settings import ServiceSettings
from services.contracts import events_pb2
from services.local.processes import Broker
from services.store import tools
from services.store.app import StoreSettings
from services.store.backends import open_archive
from services.store.reactions import react
from tests.store.simulation import Simulation


async def command(settings: StoreSettings, *arguments: str) -> int:
    """One command of the store's tool in this process."""
    return await tools.main(tools._parser().parse_args(arguments), settings)


async def digest(settings: StoreSettings) -> tuple[str, int]:
    """Of run r1, as an archive has it."""
    archive = open_archive(settings.archive)
    await archive.open()
    digest = await archive.digest("r1")
    await archive.close()
    return digest


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
async def test_an_imported_log_has_the_digest_of_the_exported_one(
    bus: Bus, settings: ServiceSettings, finished: Simulation, kind: str
) -> None:
    """Another broker, another archive, the same events to the byte; what is no event never counted."""
    folder = settings.data_dir
    here = StoreSettings(nats_url=settings.nats_url, data_dir=folder)
    for message in finished.log:
        await bus.publish_body(message.subject, f"{message.sequence}", message.body)
    await bus.publish_body("asi.v1.r1.candidate.trained", "junk", b"\xff\xff no event")
    archive = open_archive(here.archive)
    await archive.open()
    await archive.apply([message async for message in bus.read_log()], react)
    await archive.close()
    broker = Broker(folder / "elsewhere" / "nats")
    broker.start()
    try:
        there = StoreSettings(nats_url=broker.url, data_dir=folder / "elsewhere")
        path = folder / f"r1.{kind}"
        assert await command(here, "export", "r1", "--format", kind, "--out", str(path)) == 0
        assert await command(there, "import", kind, str(path), "--skip-bad") == 0
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
    with pytest.raises(SettingsError, match=r"strange\.parquet is not a table of events"):
        await command(here, "import", "parquet", str(path))


@pytest.mark.parametrize(
    ("kind", "second", "named"),
    [
        ("jsonl", b"\xff\xff no event", "line 2 is not an exported event"),
        ("jsonl", events_pb2.Event(id="r1.x", run="r1").SerializeToString(), "line 2 is not an exported event"),
        ("parquet", None, "row 2 is not an exported event"),
        ("parquet", b"\xff\xff no event", "row 2 is not an exported event"),
    ],
)
async def test_a_log_with_a_broken_event_is_refused_before_any_import(
    bus: Bus, settings: ServiceSettings, finished: Simulation, kind: str, second: bytes | None, named: str
) -> None:
    """Nothing is half-imported."""
    import pyarrow
    import pyarrow.parquet

    path, bodies = settings.data_dir / "log", [finished.log[0].body, second]
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps({"body": base64.b64encode(body or b"").decode()}) for body in bodies))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"sequence": [1, 2], "body": bodies}), path)
    here = StoreSettings(nats_url=settings.nats_url, data_dir=settings.data_dir)

    with pytest.raises(SettingsError, match=named):
        await command(here, "import", kind, str(path))
    assert await bus.last_sequence() == 0
