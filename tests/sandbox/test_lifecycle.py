"""The end of processes in unusual orders."""

import asyncio
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from services.engineer.scales import load_scale
from services.engineer.training.protocol import limits_of
from services.sandbox import Child, ChildDied, ChildTimeout, Limits, Sandbox, SandboxUnavailable
from services.sandbox.cgroups import Groups
from services.sandbox.confinement import LANDLOCK, NAMESPACES, SECCOMP, USER
from services.sandbox.processes import ended, waited_seconds
from tests.sandbox.conftest import PRELOAD, TESTS
from tests.sandbox.hostile_runs import BENIGN, JOBS, rejection

LIMITS = Limits(memory_bytes=512 << 20, cpu_seconds=20, wall_seconds=20)
LAYERS = [frozenset(), {SECCOMP}, {LANDLOCK, SECCOMP}, {NAMESPACES}, {NAMESPACES, USER, LANDLOCK, SECCOMP}]
SPIN = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\nwhile True: pass"

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("layers", LAYERS, ids=lambda layers: "+".join(sorted(layers)) or "rlimits")
async def test_a_benign_program_runs_and_a_daemon_does_not_survive_at_every_level(layers: frozenset[str]) -> None:
    """A machine that lacks a layer still cleans up."""
    async with Sandbox(preload=PRELOAD, readable=[TESTS], layers=layers) as lesser:
        answer = await rejection(lesser, BENIGN)
        async with lesser.child(f"{JOBS}:leave_daemon", LIMITS) as child:
            with pytest.raises(ChildDied):  # where fork is refused it comes at once
                await _to_the_end(child)

        assert answer == (None, "")
        assert lesser.processes() == []
        assert lesser.level.endswith("rlimits")


async def test_targets_of_links_can_be_read(tmp_path: Path) -> None:
    """A virtual environment is often a link, and sometimes a link to one."""
    folder, link, far = tmp_path / "real", tmp_path / "link", tmp_path / "far"
    folder.mkdir()
    (folder / "word").write_text("there")
    link.symlink_to(folder)
    far.symlink_to("link")
    program = f"{BENIGN}\nassert open({str(far / 'word')!r}).read() == 'there'\n"
    async with Sandbox(preload=PRELOAD, readable=[TESTS, far]) as linked:
        assert await rejection(linked, program) == (None, "")


async def test_the_sandbox_goes_on_after_its_fork_server_was_killed(sandbox: Sandbox) -> None:
    """A crash of our own machinery costs the work of that moment, nothing more: no program is at fault."""
    if SECCOMP not in sandbox.level:
        pytest.skip("without seccomp, a job may have killed the fork server")
    async with sandbox.child(f"{JOBS}:wait", LIMITS) as child:
        await child.receive(timeout=10)
        os.kill(sandbox.server_process, signal.SIGKILL)
        with pytest.raises(SandboxUnavailable, match="fork server ended"):
            await child.receive(timeout=10)

    assert await rejection(sandbox, BENIGN) == (None, "")


async def test_a_program_that_could_have_killed_the_fork_server_is_rejected_with_it() -> None:
    """Else it would be run again and again."""
    program = f"{BENIGN}\nimport os\nos.kill(os.getppid(), 9)\nwhile True:\n    pass\n"
    async with Sandbox(preload=PRELOAD, readable=[TESTS], layers=()) as weakest:
        assert (await rejection(weakest, program))[0] == "the child was lost together with its supervisor"


async def test_a_child_that_is_closed_as_it_starts_is_ended_at_once(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its supervisor has not forked the job yet, or has not even reported its own start."""
    monkeypatch.setattr("services.sandbox.child._GRACE", 600.0)

    async def start() -> None:
        async with sandbox.child(f"{JOBS}:wait", LIMITS):
            pass

    async with asyncio.timeout(60):
        await start()
        assert sandbox.processes() == []
        for turns in range(1, 40):  # of the event loop, before the cancellation
            starting = asyncio.create_task(start())
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            await asyncio.wait({starting})
        while sandbox.processes():  # noqa: ASYNC110 - what reports its start later; /proc wakes nobody
            await asyncio.sleep(0.01)


async def test_a_job_that_cannot_be_confined_rejects_no_program(sandbox: Sandbox) -> None:
    """The machine lacks a resource: the program has not even been read."""
    if NAMESPACES not in sandbox.level:
        pytest.skip("nothing is mounted here")
    assert await rejection(sandbox, BENIGN) == (None, "")  # the fork server has tried its layers
    root = sandbox.folder / "root"
    root.rmdir()
    try:
        async with sandbox.child(f"{JOBS}:echo", LIMITS) as child:
            with pytest.raises(SandboxUnavailable, match="could not be confined"):
                await child.receive(timeout=10)
    finally:
        root.mkdir()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
async def test_a_signal_to_all_processes_of_a_job_ends_no_child(sandbox: Sandbox, number: signal.Signals) -> None:
    """Slurm and systemd ask so for a drain; the engineer decides what becomes of the training."""
    async with sandbox.child(f"{JOBS}:echo", LIMITS) as child:
        await child.send("before")
        await child.receive(timeout=10)
        for pid in (*sandbox.processes(), sandbox.server_process):
            os.kill(pid, number)
        await asyncio.sleep(0.2)
        await child.send("after")

        assert (await child.receive(timeout=10)).kind == "after"


@pytest.mark.slow
async def test_a_limit_that_the_kernel_enforces_has_its_own_reason(sandbox: Sandbox) -> None:
    """A machine under load may let a loop reach the kernel's limit before the engineer looks at it again."""
    async with sandbox.child(f"{JOBS}:examine", replace(LIMITS, cpu_seconds=0.9)) as child:
        await child.send("program", {"program": "while True: pass"})
        deadline = time.monotonic() + 60
        while not all(ended(pid) for pid in sandbox.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)  # noqa: ASYNC251 - nor does the engineer look meanwhile
        with pytest.raises(ChildDied) as died:
            await child.receive(10)

    assert died.value.reason == "the child used more processor time than its limit and was killed"


async def test_a_slow_child_can_be_asked_again(sandbox: Sandbox) -> None:
    """A caller that waits in short turns, to send heartbeats, loses nothing by a turn that ends empty."""
    async with sandbox.child(f"{JOBS}:echo", LIMITS) as child:
        with pytest.raises(ChildTimeout, match="did not answer within"):
            await child.receive(timeout=0.05)
        await child.send("word", {"n": 1})

        assert (await child.receive(timeout=10)).header == {"n": 1}


async def test_children_run_side_by_side_and_their_folders_go(sandbox: Sandbox) -> None:
    """Two candidates at a time is how a machine with two cores is used."""

    async def echo(number: int) -> tuple[float, Path]:
        async with sandbox.child(f"{JOBS}:echo", LIMITS) as child:
            await child.send("numbers", {}, {"x": np.full(1_000_000, number, np.float32)})
            return float((await child.receive(timeout=10)).arrays["x"].mean()), child.scratch

    answers = await asyncio.gather(*(echo(number) for number in range(4)))

    assert [mean for mean, _ in answers] == [0, 1, 2, 3]
    assert not any(scratch.exists() for _, scratch in answers)


async def test_a_job_that_is_cancelled_while_it_ends_leaves_nothing(sandbox: Sandbox) -> None:
    """As the second child of a check, whose first one broke the protocol at the same time."""
    leaving, scratch = asyncio.Event(), []

    async def run() -> None:
        async with sandbox.child(f"{JOBS}:wait", LIMITS) as child:
            await child.receive(timeout=10)
            scratch.append(child.scratch)
            leaving.set()

    running = asyncio.create_task(run())
    await leaving.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert sandbox.processes() == []
    assert not scratch[0].exists()


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_cancellation_at_any_time_of_the_start_leaves_no_group(sandbox: Sandbox) -> None:
    """A thread makes the group, and goes on when the task that waits for it is cancelled."""
    groups = await asyncio.to_thread(Groups.find)
    if groups is None:
        pytest.skip("no control groups can be made here")
    trial = groups.make(LIMITS)
    trial.close_descriptors()
    trial.remove()

    async def run() -> None:
        async with sandbox.child(f"{JOBS}:wait", LIMITS):
            pass

    descriptors = _open_descriptors()
    for turns in range(12):
        running = asyncio.create_task(run())
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        running.cancel()
        await asyncio.wait({running})

    parent, prefix = trial.folders[0].parent, trial.folders[0].name.rpartition("-")[0]
    assert list(parent.glob(f"{prefix}-*")) == []
    assert _open_descriptors() <= descriptors + 1
    async with asyncio.timeout(20):
        while sandbox.processes():  # noqa: ASYNC110 - one that was requested already ends when it finds nobody
            await asyncio.sleep(0.01)


async def test_a_job_that_may_start_programs_can(sandbox: Sandbox) -> None:
    """Triton and torch.compile call compilers."""
    limits = Limits(memory_bytes=512 << 20, cpu_seconds=20, wall_seconds=20, subprocesses=True)
    async with sandbox.child(f"{JOBS}:run_program", limits) as child:
        assert (await child.receive(timeout=10)).header == {"said": "hello"}


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, which Triton calls")
async def test_a_training_on_a_gpu_may_compile_what_it_then_loads(sandbox: Sandbox) -> None:
    """Without this no kernel of flash-linear-attention runs in the sandbox."""
    limits = replace(limits_of(load_scale("explore")), memory_bytes=512 << 20, wall_seconds=30, cpu_seconds=30)
    async with sandbox.child(f"{JOBS}:compile_and_load", limits) as child:
        assert (await child.receive(timeout=30)).header == {"twice": 42}


@pytest.mark.parametrize("layers", [*LAYERS[1:3], LAYERS[-1]], ids=lambda layers: "+".join(sorted(layers)))
async def test_a_training_on_a_gpu_can_start_cuda_at_every_level(layers: frozenset[str]) -> None:
    """It names its threads and listens on a socket, and fails where it cannot, as in a container without namespaces."""
    limits = replace(limits_of(load_scale("explore")), memory_bytes=512 << 20, wall_seconds=30, cpu_seconds=30)
    async with Sandbox(preload=PRELOAD, readable=[TESTS], layers=layers) as lesser:
        async with lesser.child(f"{JOBS}:start_as_cuda", limits) as child:
            answer = (await child.receive(timeout=30)).header
        level = lesser.level
    assert answer["said"] == "renamed"
    more = cast("list[str]", answer["more"])
    if USER in level or LANDLOCK in level:
        assert "a setting of the machine" not in more
    if SECCOMP in level and NAMESPACES not in level:
        assert not {"connect", "accept", "stream", "internet"} & set(more)


async def test_trainings_on_a_gpu_reach_the_daemon_of_mps_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which lets kernels of several trainings run at the same time. Nothing else that is confined gets a socket.

    The numbers of GPUs mean in the sandbox what they mean outside.
    Without a network namespace nothing does, as seccomp does not tell sockets of files from those of the network.
    """

    async def daemon(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"served")
        writer.close()

    async with await asyncio.start_unix_server(daemon, tmp_path / "control"):
        (tmp_path / "control").chmod(0o666)
        await asyncio.to_thread(tmp_path.chmod, 0o755)
        monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        async with Sandbox(preload=PRELOAD, readable=[TESTS], mps=tmp_path) as sandbox:
            async with sandbox.child(f"{JOBS}:describe", LIMITS) as child:
                environment = (await child.receive(timeout=10)).header["environment"]
            answers = []
            for limits in (replace(LIMITS, subprocesses=True), LIMITS):
                async with sandbox.child(f"{JOBS}:ask_mps", limits) as child:
                    answers.append((await child.receive(timeout=10)).header["said"])

    assert {"CUDA_DEVICE_ORDER", "CUDA_MPS_PIPE_DIRECTORY"} <= set(cast("list[str]", environment))
    assert answers[0] == (
        "PermissionError" if SECCOMP in sandbox.level and NAMESPACES not in sandbox.level else "served"
    )
    if SECCOMP in sandbox.level:
        assert answers[1] == "PermissionError"


async def test_a_job_sees_only_its_own_folder_and_a_clean_environment(sandbox: Sandbox) -> None:
    """No key of ours is in what a child inherits.

    torch.compile gets a user's name, and one thread: others are processes that start CUDA, which cannot name their
    threads in /proc.
    """
    os.environ["ASI_FOR_TEST"] = "canary"
    async with sandbox.child(f"{JOBS}:describe", LIMITS) as child:
        header = (await child.receive(timeout=10)).header
        scratch = str(child.scratch)
    del os.environ["ASI_FOR_TEST"]

    assert header["folder"] == scratch
    environment = header["environment"]
    assert isinstance(environment, list)
    assert not [name for name in environment if "ASI" in name or "KEY" in name or "TOKEN" in name]
    assert {"TORCHINDUCTOR_COMPILE_THREADS", "USER"} <= set(cast("list[str]", environment))


async def test_a_job_computes_with_the_kernels_that_the_host_would_take(sandbox: Sandbox) -> None:
    """Torch chooses them by what it reads in /proc, which a job that opens no file cannot."""
    async with sandbox.child(f"{JOBS}:kernels", replace(LIMITS, files=False)) as child:
        header = (await child.receive(timeout=10)).header

    assert header == {"capability": torch.backends.cpu.get_cpu_capability()}


async def test_a_fork_server_that_cannot_start_says_why() -> None:
    """An engineer must not start without its sandbox."""
    with pytest.raises(SandboxUnavailable, match="no_such_module"):
        async with Sandbox(preload=["no_such_module"]):
            pass


async def _to_the_end(child: Child) -> None:
    while True:
        await child.receive(timeout=10)


@pytest.mark.slow
@pytest.mark.parametrize(("job", "fault"), [("wait", ChildTimeout), ("spin", SandboxUnavailable)])
async def test_a_child_without_a_processor_is_not_at_fault(job: str, fault: type[Exception], sandbox: Sandbox) -> None:
    """Among eight processes that use the only one; a child that sleeps beside them is. Each session has a share."""
    spin = partial(asyncio.create_subprocess_exec, sys.executable, "-c", SPIN, start_new_session=True)
    others = [await spin() for _ in range(8)]
    try:
        async with sandbox.child(f"{JOBS}:{job}", replace(LIMITS, wall_seconds=9)) as child:
            with pytest.raises(fault, match="overloaded" if job == "spin" else "longer than its limit of 9 s"):
                await _to_the_end(child)
    finally:
        for other in others:
            other.kill()
            await other.wait()


async def test_waiting_for_a_processor_is_told_from_idling() -> None:
    """Of two processes that share one, and a third that sleeps."""
    codes = [SPIN, SPIN, "import time; time.sleep(60)"]
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", code) for code in codes]
    busy, _, idle = ([process.pid] for process in processes)
    async with asyncio.timeout(60):
        while waited_seconds(busy) < 2 * waited_seconds(idle) + 0.2:  # noqa: ASYNC110 - it waited while it started
            await asyncio.sleep(0.01)
    for process in processes:
        process.kill()
        await process.wait()
