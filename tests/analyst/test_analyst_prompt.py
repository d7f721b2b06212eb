"""The analyst's prompt from the command line, with an archive behind real gRPC."""

import asyncio
import json
from pathlib import Path

import pytest

from services.analyst.app import AnalystSettings
from services.analyst.tools import question
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.llm.port import Role
from services.llm.prompts import main
from tests.analyst.analyst_records import CHILD, Archive, candidate
from tests.archive_server import served


def knowing(judged: bool = True) -> Archive:
    """With the child, whole or without its verdict, and another baseline."""
    child = pb.Candidate()
    child.CopyFrom(CHILD)
    child.training.revisions.add(repair="Four tokens instead of eight.")
    if not judged:
        child.ClearField("verdict")
    settings = events_pb2.RunSettings(mind="openai", baselines=["delta_net"])
    return Archive(settings, child, candidate("gated_delta_net", 5, losses=(1.375,)))


async def run_command(archive: Archive, environment: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    """The exit status of the command, run as a process would."""
    async with served(archive) as address:
        environment.setenv("ASI_ARCHIVE_ADDRESS", address)
        environment.setenv("ASI_DATA_DIR", str(folder))
        return await asyncio.to_thread(main, "analyst", AnalystSettings, (Role.ANALYSE,), question, arguments)


async def test_the_prompt_holds_the_relatives_and_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The shown prompt equals the prompt that is sent."""
    assert await run_command(knowing(), monkeypatch, tmp_path, "analyse", "--candidate", CHILD.id, "--json") == 0

    out = capsys.readouterr().out
    shown = json.loads(out[out.index("{\n") :])  # the library logs where a test captures
    user = shown["messages"][1]["content"]
    assert all(name in user for name in ("Child", "Parent", "Sibling", "delta_net", "1.4000", "1.4500", "1.3750"))
    assert "its program was repaired in training: Four tokens instead of eight." in user
    assert shown["answer"]["required"]


async def test_a_candidate_that_is_not_judged_cannot_be_analysed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One message, and the exit status of a negative result."""
    assert await run_command(knowing(judged=False), monkeypatch, tmp_path, "analyse", "--candidate", CHILD.id) == 1
    assert "is not judged" in capsys.readouterr().err
