"""The sandbox runs our jobs and holds them to their limits."""

import asyncio
import os
import re
from pathlib import Path

import numpy as np
import pytest

from services.sandbox import Limits, Sandbox, seccomp
from services.sandbox.cgroups import Groups

JOBS = "tests.sandbox.jobs"
LIMITS = Limits(memory_bytes=512 << 20, cpu_seconds=20, wall_seconds=20)

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_job_answers_with_arrays(sandbox: Sandbox) -> None:
    """The channel carries headers and arrays both ways, unchanged."""
    sent = np.arange(12, dtype=np.float32).reshape(3, 4)
    async with sandbox.child(f"{JOBS}:echo", LIMITS) as child:
        await child.send("echo", {"word": "hello"}, {"numbers": sent})
        answer = await child.receive(timeout=10)

    assert answer.header == {"word": "hello"}
    assert np.array_equal(answer.arrays["numbers"], sent)


async def test_control_groups_are_used_where_they_can_be_made(sandbox: Sandbox) -> None:
    """They were missed where the engineer had many files open."""
    descriptors = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    groups = await asyncio.to_thread(Groups.find)
    for descriptor in descriptors:
        os.close(descriptor)

    assert ("cgroup" in sandbox.level.split("+")) == (groups is not None)


def kernel_numbers(header: Path) -> dict[str, int]:
    """System calls by name, as a header of the kernel has them; none where it is not installed."""
    text = header.read_text() if header.exists() else ""
    return {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\n", text)}


@pytest.mark.parametrize(
    ("machine", "header"), [("x86_64", "x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")]
)
async def test_refused_system_calls_have_the_kernels_numbers(machine: str, header: str) -> None:
    """On both architectures, whichever this machine is of; newer calls than its headers know are left out."""
    known = kernel_numbers(Path("/usr/include") / header)
    if not known:
        pytest.skip(f"{header} is not installed")
    numbers = {name: number for name, number in seccomp.NUMBERS[machine].items() if name in known}

    assert numbers == {name: known[name] for name in numbers}
