"""`precision = "auto"`: measured on the machine, decided once per run, and what an engineer says that is unsuited."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from services.engineer.checker import description
from services.engineer.scales import BF16, FP32, load_scale
from services.engineer.speed import PrecisionSpeed, measure_precision, with_precision
from services.engineer.stages import Stages
from services.engineer.training.model import autocast
from services.engineer.training.protocol import limits_of
from services.fla_cpu.names import OPERATORS, TOP
from services.sandbox import Child, Limits, Sandbox, SandboxUnavailable
from tests.engineer.training.inline_sandbox import ChildEnd, InlineSandbox
from tests.engineer.training.programs import SMALL

TINY = load_scale("tiny")
OPEN = {**SMALL, "precision": "auto"}
in_session_loop = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def older_machine() -> AsyncIterator[Sandbox]:
    """A sandbox in which the processor has no bf16 instructions, whatever it has, and jobs see no GPU."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CUDA_VISIBLE_DEVICES", "")
        environment.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        environment.setenv("ATEN_CPU_CAPABILITY", "avx2")
        async with Sandbox() as sandbox:
            yield sandbox


@in_session_loop
async def test_a_gpu_that_jobs_cannot_use_is_the_machines_fault(older_machine: Sandbox) -> None:
    """It passed for one without bfloat16, and every candidate of the run was to blame for the error of CUDA."""
    with pytest.raises(SandboxUnavailable, match=r"measured: the child's job raised: .*CUDA"):
        await measure_precision(older_machine, replace(TINY, device="cuda"))


@in_session_loop
async def test_emulated_bf16_is_measured_as_slow_and_fp32_is_chosen(older_machine: Sandbox) -> None:
    """On the machine of most people, where a run in bf16 would take ten times as long."""
    speed = await measure_precision(older_machine, TINY)

    assert speed.bf16_seconds is not None
    assert speed.bf16_seconds > 3 * speed.fp32_seconds
    assert with_precision(TINY, speed).precision == FP32
    assert "emulated" in (speed.slow(BF16) or "")


async def test_on_a_gpu_the_precision_is_measured_within_the_limits_of_a_training() -> None:
    """CUDA needs threads, memory and, for an MPS daemon, sockets."""
    used = list[Limits]()

    class Recording(InlineSandbox):
        @asynccontextmanager
        async def child(self, job: str, limits: Limits) -> AsyncIterator[Child]:
            used.append(limits)
            async with super().child(job, limits) as child:
                yield child

    def on_a_gpu(channel: ChildEnd) -> None:
        channel.receive()
        channel.send("measured", {"fp32": 1.0, "bf16": 0.5})

    scale = replace(TINY, device="cuda")
    await measure_precision(Recording({"services.engineer.speed_child:run_precisions": on_a_gpu}), scale)

    cpu_seconds, wall_seconds = used[0].cpu_seconds, used[0].wall_seconds
    assert used == [replace(limits_of(scale), cpu_seconds=cpu_seconds, wall_seconds=wall_seconds)]


@in_session_loop
async def test_a_stage_without_a_decision_takes_what_fits_the_machine(older_machine: Sandbox, tmp_path: Path) -> None:
    """And an engineer whose run has decided otherwise follows it, and says that it is unsuited."""
    stages = Stages(older_machine, tmp_path)
    open_stage = await stages.open("tiny", OPEN)
    nothing_to_say = dict(stages.unsuited)
    stage = await stages.open("tiny", {**SMALL, "precision": BF16})

    assert (open_stage.scale.precision, nothing_to_say) == (FP32, {})
    assert stage.scale.precision == BF16
    assert "emulated" in stages.unsuited["tiny", BF16]


def test_the_faster_precision_is_chosen_and_only_a_clear_slowdown_is_reported() -> None:
    """Where bf16 is a little slower, engineers of a bf16 run need not say anything."""
    assert PrecisionSpeed(2.0, 1.0).best == BF16
    assert PrecisionSpeed(1.0, 1.2).best == FP32
    assert PrecisionSpeed(1.0, None).best == FP32
    assert PrecisionSpeed(1.0, 1.2).slow(BF16) is None
    assert PrecisionSpeed(1.0, 9.0).slow(FP32) is None
    assert PrecisionSpeed(1.0, 9.0).slow(BF16) is not None
    assert PrecisionSpeed(1.0, None).slow(BF16) is not None


@in_session_loop
async def test_the_precision_of_a_gpus_stage_is_suited_with_one_and_without(sandbox: Sandbox, tmp_path: Path) -> None:
    """Without one programs are only checked: that bf16 is emulated here is no matter."""
    stages = Stages(sandbox, tmp_path)

    assert (await stages.scale("explore", {})).precision == BF16
    assert not stages.unsuited


def test_an_explicit_precision_is_never_changed() -> None:
    """What a user asks for is what the loss means."""
    named = load_scale("tiny", {"precision": BF16})

    assert with_precision(named, PrecisionSpeed(1.0, 9.0)) == named


def test_nothing_is_trained_while_the_precision_is_undecided() -> None:
    """A forgotten decision stops the training instead of choosing in silence."""
    with pytest.raises(ValueError, match="cannot be trained in"):
        autocast("cpu", "auto")


@pytest.mark.slow
@in_session_loop
async def test_costs_of_fla_functions_are_measured_once_at_the_sizes_of_the_stage(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Who writes programs for a time limit has to know that one kernel takes as long as ten projections."""
    stages = Stages(sandbox, tmp_path)
    stage = await stages.open("tiny", {**SMALL, "precision": FP32})
    first, second = await stages.costs(stage), await stages.costs(stage)
    message = description(stage, first)

    assert first is not None
    assert first is second
    operators = {name for parts in OPERATORS.values() for name in parts if not name.startswith("prepare_")}
    assert operators | set(TOP) <= set(first.times)
    assert first.times["RMSNorm"] < first.times["chunk_delta_rule"] < first.times["chunk_rwkv7"]
    assert first.times["chunk_delta_rule"] == first.times["fused_chunk_delta_rule"]
    assert (message.costs["RMSNorm"], message.cost_tokens) == (first.times["RMSNorm"], first.tokens)
    assert not description(stage).costs
