# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicer
"""The gRPC service Checker, which screens, probes and briefly trains programs."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Any

import grpc.aio

from services.chassis.errors import Busy, NotPossible
from services.chassis.events import struct
from services.contracts import candidate_pb2, checker_pb2, checker_pb2_grpc
from services.domain.syntax import MAX_BYTES
from services.engineer.checks.report import CheckReport
from services.engineer.data.corpus import ByteTokens
from services.engineer.scales import Scale
from services.engineer.speed import FunctionCosts, training_seconds
from services.engineer.stages import Stage, Stages
from services.engineer.training.measurements import device_name, missing_device
from services.engineer.training.result import TrainingFailed
from services.engineer.training.sizes import BLOCK, INITIALISATION, LAYERS, LAYOUTS
from services.sandbox import MAX_LOST, SandboxLost

WAITING_PER_SLOT = 16
MAX_TRIAL_STEPS = 100


class CheckerService(checker_pb2_grpc.CheckerServicer):
    """Runs a few checks at once, with a bounded queue. Unknown stages are INVALID_ARGUMENT."""

    def __init__(self, stages: Stages, slots: int, trainings: Callable[[str], int] = lambda _: 1) -> None:
        """`slots` checks run at once; `trainings` maps a stage to the number of its concurrent trainings."""
        self._stages = stages
        self._trainings = trainings
        self._slots = asyncio.Semaphore(slots)
        self._capacity = slots * (1 + WAITING_PER_SLOT)
        self._pending = 0
        self._lost = Counter[str]()  # programs whose last checks were lost

    async def Check(
        self, request: checker_pb2.CheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> candidate_pb2.CheckReport:
        async with self._slot(request.program):
            stage = await self._stages.open(request.stage or "tiny", dict(request.scale_overrides))
            exempt, thorough = request.exempt_from_cost, request.thorough
            report = await self._stages.check(stage, request.program, exempt_from_cost=exempt, thorough=thorough)
        return report_message(report)

    async def Trial(
        self, request: checker_pb2.TrialRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> checker_pb2.TrialReport:
        if not 1 <= request.steps <= MAX_TRIAL_STEPS:
            raise ValueError(f"steps must be 1 to {MAX_TRIAL_STEPS}, not {request.steps}")
        async with self._slot(request.program):
            stage = await self._stages.open(request.stage or "tiny", dict(request.scale_overrides))
            try:
                curve = await self._stages.trial(stage, request.program, request.steps, request.seed)
            except TrainingFailed as failed:
                return checker_pb2.TrialReport(failure=failed.message)
        return checker_pb2.TrialReport(curve=[candidate_pb2.CurvePoint(**asdict(point)) for point in curve])

    @contextlib.asynccontextmanager
    async def _slot(self, program: str) -> AsyncIterator[None]:
        """Wait for a slot.

        Raises ValueError for a program that is too long, Busy if the queue is full, and NotPossible if work on the
        program is lost too often in a row, so that its candidate ends.
        """
        if len(program.encode(errors="replace")) > MAX_BYTES:
            raise ValueError(f"program has more than {MAX_BYTES} bytes")
        if self._pending >= self._capacity:
            raise Busy(f"{self._pending} checks are waiting: retry later")
        self._pending += 1
        try:
            async with self._slots:
                yield
            self._lost.pop(program, None)
        except SandboxLost as lost:
            self._lost[program] += 1
            if self._lost[program] < MAX_LOST:
                raise
            del self._lost[program]
            raise NotPossible(f"{MAX_LOST} checks of a program in a row were lost: {lost}") from lost
        finally:
            self._pending -= 1

    async def Profile(
        self, request: checker_pb2.ScaleRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> checker_pb2.MachineProfile:
        name, overrides = request.stage or "tiny", dict(request.scale_overrides)
        scale, speed = await self._stages.scale(name, overrides), None
        if missing := missing_device(scale):
            raise NotPossible(missing)
        stage = await self._stages.open(name, overrides) if request.speed or request.text else None
        if stage is not None and request.speed:
            speed = await self._stages.speed(stage, self._trainings(name))
        return checker_pb2.MachineProfile(
            precision=scale.precision,
            device=scale.device,
            device_name=device_name(scale.device),
            trainings=self._trainings(scale.name),
            tokens=scale.steps * scale.tokens_per_step,
            tokens_per_second=speed,
            seconds=None if speed is None else training_seconds(scale, speed),
            unsuited=self._stages.unsuited.get((name, scale.precision), ""),
        )

    async def Describe(
        self, request: checker_pb2.ScaleRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> checker_pb2.ScaleDescription:
        stage = await self._stages.open(request.stage or "tiny", dict(request.scale_overrides))
        return description(stage, await self._stages.costs(stage))


def description(stage: Stage, costs: FunctionCosts | None = None) -> checker_pb2.ScaleDescription:
    """The training conditions of a stage, for prompts."""
    scale = stage.scale
    copied = ("width", "heads", "blocks", "feed_forward", "context", "batch", "steps", "tokens", "precision", "device")
    return checker_pb2.ScaleDescription(
        **{name: getattr(scale, name) for name in (*copied, "wall_seconds", "memory_bytes")},
        vocabulary=stage.corpus.tokens.vocabulary,
        unit="byte" if stage.corpus.tokens.vocabulary == ByteTokens.vocabulary else "token",
        corpus=scale.dataset or scale.corpus,
        optimiser=(
            f"AdamW, peak rate {scale.learning_rate:g}, betas {scale.beta1:g} and {scale.beta2:g}, weight decay "
            f"{scale.weight_decay:g} on matrices; warm-up over {scale.warmup:.0%} of the steps, then constant, "
            f"then linear to {scale.final_rate:.0%} in the last {scale.decay:.0%}; clipping at {scale.grad_clip:g}"
        ),
        initialisation=INITIALISATION,
        layers=describe_layers(scale),
        modules=[] if costs is None else costs.modules,
        costs={} if costs is None else costs.times,
        cost_tokens=None if costs is None else costs.tokens,
        linear_seconds=None if costs is None else costs.linear_seconds,
    )


def describe_layers(scale: Scale) -> str:
    """The layers that use the candidate's mixer, and what else a program may choose."""
    pattern = f"in the layers named candidate of this repeated pattern: {', '.join(scale.pattern)}"
    layers = pattern if scale.pattern else "in every layer"
    if scale.evolves != "model":
        return layers
    return (
        f"{layers}; the whole model may change: a module constant {LAYERS} may be a tuple of names of the program's "
        f"own mixer classes, one per layer, repeated, and a constant {BLOCK} one of {', '.join(LAYOUTS)}"
    )


def report_message(report: CheckReport) -> candidate_pb2.CheckReport:
    return candidate_pb2.CheckReport(
        passed=report.passed,
        verdicts=[
            candidate_pb2.ProbeVerdict(
                probe=verdict.probe, outcome=verdict.outcome, message=verdict.message, evidence=struct(verdict.evidence)
            )
            for verdict in report.verdicts
        ],
        seconds=report.seconds,
        parameters=report.parameters,
        isolation=report.isolation,
    )
