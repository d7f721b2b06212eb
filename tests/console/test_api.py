"""The Python API and the MCP server against a real store, and the notebook as a person runs it."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asi_arch import Laboratory
from asi_arch.laboratory import flags
from services.chassis.bus import Logged
from services.chassis.bus.subjects import subject_of
from services.chassis.events import body_of
from services.contracts import events_pb2 as events
from services.store.backends import opened
from tests.console.conftest import System
from tests.console.published_events import whole_way

NOTEBOOK = Path(__file__).parents[2] / "examples" / "a_run.ipynb"


async def finished(system: System, started: events.Event) -> None:
    await system.bus.publish(started)
    await whole_way(system.bus, fitness=0.5)
    await whole_way(system.bus, fitness=0.7)
    await system.until("finished")


async def test_runs_and_candidates_are_data_frames(
    system: System, started: events.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not measured is missing, and following a run that is over ends."""
    await finished(system, started)
    for name in ("ASI_NATS_URL", "ASI_ARCHIVE_ADDRESS", "ASI_DATA_DIR"):
        monkeypatch.setenv(name, system.environment[name])

    def ask() -> None:
        api = Laboratory()
        candidates = api.candidates()

        assert list(api.runs().index) == ["r1"]
        assert list(candidates.index) == ["c000001", "c000002"]
        assert candidates.loc["c000002", "fitness"] == 0.7
        assert [change["state"] for change in api.follow("r1")] == ["archived", "archived"]
        assert api.candidate("c000002")["id"] == "c000002"

    await asyncio.to_thread(ask)


async def test_a_run_is_started_and_followed(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command ends at once in services that run already; a taken name and a refused flag are errors."""
    for name, value in system.environment.items():
        monkeypatch.setenv(name, value)
    settings = {"join": True, "scale": "tiny", "candidates": 0, "baselines": "delta_net", "set": {"precision": "fp32"}}

    def ask() -> None:
        api = Laboratory()
        started = api.start("night", **settings)

        assert (started.run, started.wait(20)) == ("night", 0)
        assert started.process.stderr is None, "nobody reads a pipe: it fills, or breaks with this process"
        with pytest.raises(RuntimeError, match="a run called night exists already"):
            api.start("night", **settings)
        with pytest.raises(RuntimeError, match=r"(?s)^run night did not start: .*--join starts a run"):
            api.start(resume=True, join=True)

    await asyncio.to_thread(ask)


async def test_a_run_on_which_nothing_works_is_not_followed_forever(
    started: events.Event, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As after an interrupt: its candidates stay as they are."""
    monkeypatch.setenv("ASI_DATA_DIR", str(tmp_path))
    async with opened(f"sqlite:///{tmp_path}/archive.db") as archive:
        await archive.apply([Logged(1, subject_of(started), body_of(started))])

    assert await asyncio.wait_for(asyncio.to_thread(lambda: list(Laboratory().follow())), 30) == []


def test_settings_become_flags() -> None:
    """Lists are given again and again, tables as NAME=VALUE."""
    command = flags(
        {"candidates": 3, "seed_program": ["a.py", "b.py"], "set": {"tokens": 20}, "join": True, "money": None}
    )

    assert command == [
        "--candidates", "3", "--seed-program", "a.py", "--seed-program", "b.py", "--set", "tokens=20", "--join",
    ]  # fmt: skip


@pytest.mark.parametrize("allowed", [False, True])
async def test_an_agent_reads_and_starts_runs_only_if_allowed(
    system: System, started: events.Event, allowed: bool
) -> None:
    """Over standard input and output, as an agent starts the server."""
    pytest.importorskip("mcp", reason="the MCP server needs the extra mcp")
    from mcp import Client, StdioServerParameters, stdio_client

    await finished(system, started)
    arguments = ["-m", "asi_arch.mcp_server", *(["--allow-start"] if allowed else [])]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=system.environment)
    async with Client(stdio_client(server)) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        listed = await client.call_tool("list_candidates", {"run": "r1"})
        program = await client.call_tool("get_program", {"candidate": "c000001"})
        unknown = await client.call_tool("get_program", {"candidate": "c9"})

    assert {"list_runs", "list_candidates", "get_candidate", "get_program", "check_program"} <= tools
    assert ({"start_run", "interrupt_run"} <= tools) == allowed
    assert listed.structured_content is not None
    assert [row["id"] for row in listed.structured_content["result"]] == ["c000002", "c000001"]
    assert not program.is_error
    assert "run r1 has no candidate 'c9'" in str(unknown.content), "the agent must learn why"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    """Every cell, with a real run of seconds."""
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient, which the extra dev installs")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    os.environ["JUPYTER_DATA_DIR"] = str(tmp_path)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    output = json.dumps([cell.get("outputs") for cell in notebook.cells])

    assert "DeltaNet" in output
    assert "archived" in output


def test_a_server_for_agents_without_its_package_names_what_to_install() -> None:
    """The command is installed with every extra."""
    code = "import sys; sys.modules['mcp'] = None; import asi_arch.mcp_server"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (1, "asi-arch-mcp needs a package: pip install 'asi-arch[mcp]'\n")
