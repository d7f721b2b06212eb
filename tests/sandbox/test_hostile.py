"""Hostile programs end as clean rejections: nothing outside changes, nothing is left, the next candidate runs."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.sandbox import Sandbox
from tests.sandbox.examiner import BENIGN, rejection, snapshot

PROGRAMS = sorted((Path(__file__).parent / "hostile").glob("*.py"))
CANARY = "canary-7f1d"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Path]:
    """A folder that anybody may read and write, with a secret in it and in the environment of a process."""
    tmp_path.chmod(0o777)
    (tmp_path / "secret").write_text(CANARY)
    with subprocess.Popen(["/bin/sleep", "60"], env={"OPENAI_API_KEY": CANARY}) as neighbour:
        yield tmp_path
        neighbour.kill()


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
async def test_a_hostile_program_is_rejected_and_leaves_nothing(sandbox: Sandbox, watched: Path, path: Path) -> None:
    """Whatever a candidate does, the engineer gets a reason and goes on."""
    before = snapshot(watched)
    program = await asyncio.to_thread(path.read_text)
    reason, log = await rejection(sandbox, program.replace("WATCHED", str(watched)))

    assert reason is not None
    assert "LEAKED" not in log
    assert CANARY not in log
    assert snapshot(watched) == before
    assert sandbox.processes() == []
    assert await rejection(sandbox, BENIGN) == (None, "")


async def test_the_suite_is_as_large_as_promised() -> None:
    """A glob that finds nothing would pass everything."""
    assert len(PROGRAMS) >= 50
