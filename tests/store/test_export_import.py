"""An exported run that is imported elsewhere is the same run."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from services.chassis.bus import Bus, Logged
from services.chassis.errors import SettingsError
from services.chassis.settings import ServiceSettings
from services.contracts import events_pb2
from services.local.processes import Broker
from services.store import exporting, tools
from services.store.app import StoreSettings
from services.store.backends import open_archive
from services.store.importing import bodies_of, events_of, format_of, publish, read_published
from services.store.published import write_published
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


@pytest.mark.parametrize("name", ["r1.jsonl", "r1.jsonl.gz"])
def test_an_export_replaces_only_an_earlier_one_of_the_same_log(
    tmp_path: Path, finished: Simulation, name: str
) -> None:
    """The run of another data folder has the same name by default, and this may be all that is left of it."""
    path = tmp_path / name
    exporting.write_log(finished.log[:5], path)
    exporting.write_log(finished.log[:9], path)
    longer = path.read_bytes()
    other = [Logged(message.sequence, message.subject, message.body + b"\0") for message in finished.log]

    with pytest.raises(SettingsError, match=f"{name} exists already"):
        exporting.write_log(other, path)
    with pytest.raises(SettingsError, match=f"{name} exists already"):
        exporting.write_log(finished.log[:5], path)
    assert path.read_bytes() == longer
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(SettingsError, match="holds other files"):
        write_published([], tmp_path)


def test_a_failed_export_names_its_file_and_leaves_no_part(tmp_path: Path, finished: Simulation) -> None:
    """Part of a log would look like one of a shorter run."""
    folder = tmp_path / "r1.jsonl.incomplete"
    folder.mkdir()

    with pytest.raises(OSError, match="r1") as raised:
        exporting.write_log(finished.log, tmp_path / "r1.jsonl")
    assert raised.value.filename == str(tmp_path / "r1.jsonl")
    assert list(tmp_path.iterdir()) == [folder]


def test_superfluous_arguments_of_a_tool_are_named() -> None:
    """Not with the usage of all commands, some of which are internal."""
    command = [sys.executable, "-m", "services.store.tools", "backup", "copy.db", "more"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (2, "asi-arch: more is not understood: see `asi-arch backup --help`.\n")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("r1.jsonl.gz", "jsonl"),
        ("r1.parquet", "parquet"),
        ("106.json", "asi-arch"),
        (".", "programs"),
        ("x", "asi-arch"),
    ],
)
def test_the_format_of_an_import_is_seen_from_its_path(path: str, kind: str, tmp_path: Path) -> None:
    """So that it need not be given."""
    (tmp_path / "mine.py").touch()
    (tmp_path / "x").mkdir()

    assert format_of(tmp_path / path) == kind


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("import jsonl r1.jsonl --run r2", "--run"),
        ("import r1.jsonl.gz --run r2", "--run"),
        ("import programs mine --detach", "--detach"),
        ("export r1 --format parquet --manifest", "--manifest"),
    ],
)
async def test_options_of_another_format_are_refused(command: str, flag: str, settings: ServiceSettings) -> None:
    """Who gives one expects something of it."""
    with pytest.raises(SettingsError, match=f"{flag} has no effect with the format"):
        await tools.main(tools._parser().parse_args(command.split()), StoreSettings(data_dir=settings.data_dir))


def test_a_reader_without_an_archive_says_why(tmp_path: Path) -> None:
    """Its last line is what the command line shows."""
    environment = os.environ | {"ASI_ARCHIVE_URL": f"sqlite:///{tmp_path}/file/archive.db"}
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "services.store.reader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    assert done.stderr == f"{tmp_path}/file/archive.db: File exists\n"


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


def write_log(path: Path, bodies: Sequence[bytes], last: str = "") -> Path:
    """An exported log of these events, followed by one more line."""
    lines = [json.dumps({"body": base64.b64encode(body).decode()}) for body in bodies]
    path.write_text("\n".join([*lines, last]))
    return path


async def test_a_truncated_line_can_be_skipped(
    bus: Bus, settings: ServiceSettings, finished: Simulation, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the last one of a download that was cut off."""
    path = write_log(settings.data_dir / "log", [message.body for message in finished.log[:2]], '{"body": "AB')
    here = StoreSettings(nats_url=settings.nats_url, data_dir=settings.data_dir)

    assert await command(here, "import", "jsonl", str(path), "--skip-bad", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["imported"] == 2
    assert printed["left_out"][0].startswith("line 3: ")


async def test_a_log_without_the_start_of_its_run_is_not_published(
    bus: Bus, settings: ServiceSettings, finished: Simulation
) -> None:
    """The archive would refuse all of it, and then the whole log as its repetition."""
    path = write_log(settings.data_dir / "log", [message.body for message in finished.log[1:]])
    here = StoreSettings(nats_url=settings.nats_url, data_dir=settings.data_dir)

    with pytest.raises(SettingsError, match="no valid start of run r1"):
        await command(here, "import", "jsonl", str(path))
    assert await bus.last_sequence() == 0


async def test_events_that_the_archive_refuses_are_listed(
    bus: Bus, settings: ServiceSettings, finished: Simulation, capsys: pytest.CaptureFixture[str]
) -> None:
    """What followed from a missing event is not imported silently."""
    bodies = [message.body for message in (finished.log[0], *finished.log[2:5])]
    path = write_log(settings.data_dir / "log", bodies)
    here = StoreSettings(nats_url=settings.nats_url, data_dir=settings.data_dir)

    assert await command(here, "import", "jsonl", str(path)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert all(" is refused: " in line for line in printed[:-1])
    assert printed[-1] == f"imported 4 events as run r1, {len(printed) - 1} of them refused"


@pytest.mark.parametrize("kind", ["asi-arch", "jsonl"])
async def test_an_interrupted_import_continues_and_a_repeated_one_changes_nothing(
    bus: Bus, settings: ServiceSettings, finished: Simulation, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """A run of which a part is in the log cannot be removed; other events of its name are refused."""
    here = StoreSettings(nats_url=settings.nats_url, data_dir=settings.data_dir)
    records = [{"index": index, "name": f"m{index}", "program": "why " * 100_000 * (index == 2)} for index in (1, 2, 3)]
    path = settings.data_dir / "records.json"
    path.write_text(json.dumps([{**record, "program": "", "motivation": record["program"]} for record in records]))
    bodies = bodies_of(events_of("r1", read_published(path).records, "asi-arch"))
    if kind == "jsonl":
        bodies = list(dict.fromkeys(message.body for message in finished.log))
        path = write_log(settings.data_dir / "log", bodies)
    await publish(bus, "r1", bodies[:3], "")
    arguments = ["import", kind, str(path), *(["--run", "r1"] if kind == "asi-arch" else [])]

    assert await command(here, *arguments) == 0
    assert [message.body async for message in bus.read_log()] == bodies
    before = await digest(here)
    assert await command(here, *arguments) == 0
    assert f"holds the {3 if kind == 'asi-arch' else len(bodies)} " in capsys.readouterr().out
    assert (await bus.last_sequence(), await digest(here)) == (len(bodies), before)
    other = write_log(settings.data_dir / "other", [*bodies[:2], bodies[2] + b"\x0a\x00"])
    with pytest.raises(SettingsError, match="import it into another ASI_DATA_DIR"):
        await command(here, "import", "jsonl", str(other))


async def test_of_two_imports_at_once_one_gets_the_name(bus: Bus, tmp_path: Path) -> None:
    """Their records must not mix, also if one begins when the other has published no more than the start of its run."""
    imports = []
    for name in ("first", "second"):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps([{"index": index, "name": f"{name}-{index}"} for index in range(1, 80)]))
        records = read_published(path).records
        imports.append({run: bodies_of(events_of(run, records, "asi-arch")) for run in ("r1", "r2")})
    answers = await asyncio.gather(*(publish(bus, "r1", bodies["r1"], "") for bodies in imports),
                                   return_exceptions=True)  # fmt: skip
    await publish(bus, "r2", imports[0]["r2"][:1], "")
    with pytest.raises(SettingsError, match="another run called r2 exists already"):
        await publish(bus, "r2", imports[1]["r2"], "")

    winner = answers.index(80)
    assert "another run called r1 exists already" in str(answers[1 - winner])
    assert [message.body async for message in bus.read_log("asi.v1.r1.>")] == imports[winner]["r1"]
    assert await publish(bus, "r2", imports[0]["r2"], "") == 79
