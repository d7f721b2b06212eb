"""Hostile programs end as clean rejections: nothing outside changes, nothing is left, the next candidate runs."""

import asyncio
import os
import subprocess
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.sandbox import Limits, Sandbox
from services.sandbox.confinement import ALL_LAYERS, BUBBLEWRAP, CGROUP, NAMESPACES, SECCOMP
from tests.sandbox.conftest import PRELOAD, TESTS
from tests.sandbox.hostile_runs import BENIGN, LIMITS, rejection, snapshot

PROGRAMS = sorted((Path(__file__).parent / "hostile").glob("*.py"))
HONEST = sorted((Path(__file__).parent / "honest").glob("*.py"))
COUNTED = [path for path in PROGRAMS if path.stem.startswith(("memory_in_", "disk_bomb_beyond"))]
LEVELS = [
    pytest.param(ALL_LAYERS, id="all"),
    pytest.param(ALL_LAYERS - {CGROUP}, id="without cgroup", marks=pytest.mark.slow),
    pytest.param(ALL_LAYERS - {CGROUP, NAMESPACES, BUBBLEWRAP}, id="without cgroup and namespaces"),
]
SMALL = Limits(memory_bytes=64 << 20, cpu_seconds=3, wall_seconds=6, processes=32, file_bytes=8 << 20)
ROOMY = replace(LIMITS, cpu_seconds=20, wall_seconds=60)
SLACK = 128
"""MiB that a job may hold beyond its limits on memory and files, for what the kernel counts late."""
CANARY = "canary-7f1d"

pytestmark = pytest.mark.asyncio(loop_scope="session")


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
    """For any behaviour of a candidate, the engineer gets a reason and continues."""
    before = snapshot(watched)
    program = await asyncio.to_thread(path.read_text)
    reason, log = await rejection(sandbox, program.replace("WATCHED", str(watched)))

    assert reason is not None
    assert "LEAKED" not in log
    assert CANARY not in log
    assert {c for c in reason + log if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")} <= {"\n", "\t"}
    assert len(log) < 66_000
    assert snapshot(watched) == before
    assert sandbox.processes() == []
    assert await rejection(sandbox, BENIGN) == (None, "")


@pytest.mark.parametrize("path", HONEST, ids=lambda path: path.stem)
async def test_an_unusual_but_honest_program_passes(sandbox: Sandbox, path: Path) -> None:
    """Limits that refuse what libraries do would throw good candidates away."""
    reason, _ = await rejection(sandbox, await asyncio.to_thread(path.read_text), ROOMY)

    assert reason is None


@pytest.mark.parametrize("layers", LEVELS)
async def test_no_program_holds_more_than_the_limits_in_uncounted_memory(layers: frozenset[str]) -> None:
    """Pages that no process maps, page tables and nameless files are memory and disk as well."""
    files: dict[str, int] = {}
    async with Sandbox(preload=PRELOAD, readable=[TESTS], layers=layers) as lesser:
        for path in COUNTED:
            reason, log = await rejection(lesser, await asyncio.to_thread(path.read_text), SMALL)
            counts = [int(line.split()[1]) for line in log.splitlines() if line.startswith("held ")]
            files[path.stem] = max(counts, default=0)
            assert reason is not None, path.stem
        left = snapshot(lesser.folder)

    limit = (SMALL.memory_bytes + SMALL.file_bytes >> 20) + SLACK
    assert {name: count for name, count in files.items() if count > limit} == {}
    assert {name for name in left if not name.endswith(("lock", "forkserver.log"))} == set()


@pytest.mark.parametrize("layers", LEVELS)
async def test_deep_and_unreadable_folders_are_removed(layers: frozenset[str], tmp_path: Path) -> None:
    """A folder that cannot be removed fills the disk, and must not keep the next sandbox from starting."""
    for attempt in range(2):
        async with Sandbox(preload=PRELOAD, readable=[TESTS], layers=layers, folder=tmp_path) as lesser:
            for name in ("nests_folders", "nests_folders_with_long_names"):
                text = await asyncio.to_thread((Path(__file__).parent / "hostile" / f"{name}.py").read_text)
                assert (await rejection(lesser, text, SMALL))[0] is not None, attempt
    assert await asyncio.to_thread(os.listdir, tmp_path) == []


async def test_a_child_that_dies_of_a_signal_without_a_name_is_noticed_at_once(sandbox: Sandbox) -> None:
    """The host waited for the whole wall time, which is 30 days at the last scale."""
    program = await asyncio.to_thread((Path(__file__).parent / "hostile" / "dies_of_real_time_signal.py").read_text)
    started = time.monotonic()
    reason, _ = await rejection(sandbox, program, replace(SMALL, wall_seconds=60))

    assert reason is not None
    assert reason.startswith("the child was killed by SIGRTMIN+5")
    assert time.monotonic() - started < 5


async def test_a_child_that_would_stop_itself_is_refused(sandbox: Sandbox) -> None:
    """The host waited for its answer for a minute."""
    if SECCOMP not in sandbox.level:
        pytest.skip("without seccomp, a job may stop itself")
    for stop in ("signal.raise_signal(signal.SIGSTOP)", "os.kill(os.getpid(), signal.SIGTTOU)"):
        reason, _ = await rejection(sandbox, f"import os, signal\n{stop}")
        assert reason == "the child's job raised: PermissionError: [Errno 1] Operation not permitted", stop


async def test_output_of_a_child_is_truncated_and_marked(sandbox: Sandbox) -> None:
    """Thirty megabytes of evidence were accepted once."""
    reason, log = await rejection(sandbox, "print('y' * (1 << 20))\nraise ValueError('z' * (1 << 20))")

    assert reason is not None
    assert len(reason) < 400
    assert "were left out]" in log.splitlines()[0]


async def test_the_suite_has_the_documented_size() -> None:
    """A glob that finds nothing would pass everything."""
    assert len(PROGRAMS) >= 90
    assert len(HONEST) >= 9
    assert len(COUNTED) >= 7
