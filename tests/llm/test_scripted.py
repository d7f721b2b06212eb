"""The scripted endpoint as a program of its own."""

import asyncio
import sys
from pathlib import Path

import pytest

from services.chassis.errors import SettingsError
from services.llm.scripted import Script
from tests.llm.scripted_minds import Idea, mind, question, settings


async def test_it_runs_as_a_program_with_a_script(tmp_path: Path) -> None:
    """As measurements and the one-machine runner start it."""
    path = tmp_path / "script.json"
    path.write_text('{"steps": [{"fault": "server_error"}], "otherwise": {"answer": "schema"}}', "utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.llm.scripted", "--script", str(path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        url = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
        async with mind(settings(url)) as model:
            answered = await model.ask(question())
    finally:
        process.kill()
        await process.wait()

    assert answered.answer == Idea(name="scripted", program="scripted")
    assert len(answered.calls) == 2


def test_a_mistake_in_a_script_is_reported(tmp_path: Path) -> None:
    """With the file's name."""
    path = tmp_path / "script.toml"
    path.write_text("[[steps]]\nfault = 'earthquake'\n", "utf-8")

    with pytest.raises(SettingsError, match=r"script\.toml is not a script"):
        Script.read(path)
