"""The judge's prompt from the command line, and its service."""

import asyncio
import json

import pytest

from services.judge.app import JudgeSettings
from services.judge.tools import question
from services.llm.port import Role
from services.llm.prompts import main
from tests.archive_server import served
from tests.judge.judge_fixtures import ANCHOR, ROOT, Archive, trained, untrained

CHILD = trained(3, 1.44)


async def run_command(archive: Archive, environment: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status of the command, run as a process would."""
    async with served(archive) as address:
        environment.setenv("ASI_ARCHIVE_ADDRESS", address)
        return await asyncio.to_thread(main, "judge", JudgeSettings, (Role.SCORE,), question, arguments)


async def test_the_prompt_holds_both_anchors_and_no_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shown prompt equals the prompt that is sent."""
    archive = Archive(ROOT, ANCHOR, CHILD)
    assert await run_command(archive, monkeypatch, "score", "--candidate", CHILD.id, "--json") == 0

    shown = json.loads(capsys.readouterr().out)
    user = shown["messages"][1]["content"]
    assert "loss 1.5000" in user
    assert "loss 1.4500" in user
    assert "Secretive" not in user
    assert shown["version"].startswith("score-")


async def test_a_candidate_without_measurements_cannot_be_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message, and the exit status of a negative result."""
    archive = Archive(ROOT, ANCHOR, untrained(CHILD))
    assert await run_command(archive, monkeypatch, "score", "--candidate", CHILD.id) == 1
    assert capsys.readouterr().err == f"asi-arch: candidate {CHILD.id} is not measured, so there is nothing to judge\n"
