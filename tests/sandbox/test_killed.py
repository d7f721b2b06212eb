"""An engineer that is killed."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.sandbox import Limits
from services.sandbox.cgroups import Groups
from services.sandbox.host import Folders
from services.sandbox.processes import ended
from tests.sandbox.conftest import TESTS
from tests.sandbox.hostile_runs import JOBS

ENGINEER = f"""
import asyncio
from pathlib import Path
from services.sandbox import Limits, Sandbox

async def main():
    async with Sandbox(preload=("torch",), readable=[Path({str(TESTS)!r})]) as sandbox:
        async with sandbox.child("{JOBS}:wait", Limits(1 << 29, 20, 20)) as child:
            await child.receive(10)
            print(*sandbox.processes(), sandbox.server_process, flush=True)
            await asyncio.sleep(60)

asyncio.run(main())
"""


def test_nothing_outlives_an_engineer_that_was_killed(tmp_path: Path) -> None:
    """kill -9 leaves no time to clean up: the kernel has to."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(TESTS.parent)}
    with subprocess.Popen([sys.executable, "-c", ENGINEER], stdout=subprocess.PIPE, env=environment) as engineer:
        assert engineer.stdout is not None
        pids = [int(word) for word in engineer.stdout.readline().split()]
        engineer.kill()
    deadline = time.monotonic() + 5
    while not all(ended(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert len(pids) >= 3
    assert [pid for pid in pids if not ended(pid)] == []


def test_the_next_engineer_removes_what_a_killed_one_left_on_disk(tmp_path: Path) -> None:
    """Scratch folders of killed engineers would fill the disk in time; those in use must stay."""
    left = tmp_path / "asi-sandbox-left"
    left.mkdir()
    (left / "weights").write_bytes(bytes(100))
    used = Folders(tmp_path)
    for folder in (left, used.root):
        os.utime(folder, (1, 1))
    newer = Folders(tmp_path)

    assert not left.exists()
    assert used.root.exists()
    used.remove()
    newer.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_next_engineer_removes_the_control_groups_that_a_killed_one_left() -> None:
    """Empty groups would pile up; those of engineers that live must stay."""
    groups = Groups.find()
    if groups is None:
        pytest.skip("no control groups can be made here")
    limits = Limits(1 << 26, 1, 1)
    used = groups.make(limits)
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended_engineer:
        pass
    left = [folder.with_name(folder.name.replace(str(os.getpid()), str(ended_engineer.pid))) for folder in used.folders]
    for folder in left:
        folder.mkdir()
    Groups.find()
    remaining = [folder.exists() for folder in (*left, *used.folders)]
    used.close_descriptors()
    used.remove()

    assert remaining == [False] * len(left) + [True] * len(used.folders)
    assert not any(folder.exists() for folder in used.folders)


def test_two_sandboxes_of_a_process_do_not_make_the_same_groups() -> None:
    """One is started while children of another, or groups that could not be removed yet, still exist."""
    first, second = Groups.find(), Groups.find()
    if first is None or second is None:
        pytest.skip("no control groups can be made here")
    made = [groups.make(Limits(1 << 26, 1, 1)) for groups in (first, second, first)]
    for group in made:
        group.close_descriptors()
        group.remove()

    assert len({group.folders for group in made}) == 3
    assert not any(folder.exists() for group in made for folder in group.folders)


def test_a_group_whose_processes_take_long_to_end_is_removed_later() -> None:
    """Groups of a busy machine would pile up while its engineer runs."""
    groups = Groups.find()
    if groups is None:
        pytest.skip("no control groups can be made here")
    slow = groups.make(Limits(1 << 26, 1, 1))
    with subprocess.Popen(["/bin/sh", "-c", "read word"], stdin=subprocess.PIPE) as process:
        for folder in slow.folders:
            (folder / "cgroup.procs").write_text(str(process.pid))
        slow.close_descriptors()
        slow.remove()
        existed = [folder.exists() for folder in slow.folders]
    following = groups.make(Limits(1 << 26, 1, 1))
    following.close_descriptors()
    following.remove()

    assert all(existed)
    assert not any(folder.exists() for folder in (*slow.folders, *following.folders))


def test_groups_are_made_in_several_threads_while_some_cannot_be_removed(tmp_path: Path) -> None:
    """The children of several trainings are started at once."""
    groups, limits = Groups(()), Limits(1 << 26, 1, 1)
    for name in ("first", "second"):
        (tmp_path / name / "process").mkdir(parents=True)
    remaining = groups.make(limits).remaining
    remaining.extend(tmp_path.iterdir())
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            made = list(threads.map(groups.make, [limits] * 20_000))
    finally:
        sys.setswitchinterval(interval)

    assert len(made) == 20_000
    assert sorted(remaining) == sorted(tmp_path.iterdir())
