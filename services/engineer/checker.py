# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicer
"""The gRPC service Checker: programs are screened and probed here, where strangers' code may run."""

import asyncio
from typing import Any

import grpc.aio

from services.chassis.errors import Busy
from services.chassis.events import struct
from services.contracts import candidate_pb2, checker_pb2, checker_pb2_grpc
from services.engineer.checks.report import CheckReport
from services.engineer.stages import Stages

PROGRAM_BYTES = 256 * 1024
WAITING_PER_SLOT = 16


class CheckerService(checker_pb2_grpc.CheckerServicer):
    """A few checks at once; a queue of bounded length in front of them. Unknown stages are INVALID_ARGUMENT."""

    def __init__(self, stages: Stages, slots: int) -> None:
        self._stages = stages
        self._slots = asyncio.Semaphore(slots)
        self._room = slots * (1 + WAITING_PER_SLOT)
        self._inside = 0

    async def Check(
        self, request: checker_pb2.CheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> candidate_pb2.CheckReport:
        if len(request.program.encode()) > PROGRAM_BYTES:
            raise ValueError(f"program has more than {PROGRAM_BYTES} bytes")
        if self._inside >= self._room:
            raise Busy(f"{self._inside} checks are waiting: ask again in a moment")
        self._inside += 1
        try:
            async with self._slots:
                stage = await self._stages.open(request.stage or "tiny", dict(request.scale_overrides))
                report = await self._stages.check(
                    stage,
                    request.program,
                    exempt_from_cost=request.exempt_from_cost,
                    thorough=request.thorough,
                )
        finally:
            self._inside -= 1
        return report_message(report)

    async def Profile(
        self, request: checker_pb2.ProfileRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> checker_pb2.MachineProfile:
        precision = await self._stages.precision(request.stage or "tiny", dict(request.scale_overrides))
        return checker_pb2.MachineProfile(precision=precision)


def report_message(report: CheckReport) -> candidate_pb2.CheckReport:
    """A report as the contracts carry it."""
    return candidate_pb2.CheckReport(
        passed=report.passed,
        verdicts=[
            candidate_pb2.ProbeVerdict(
                probe=one.probe, outcome=one.outcome, message=one.message, evidence=struct(one.evidence)
            )
            for one in report.verdicts
        ],
        seconds=report.seconds,
        parameters=report.parameters,
        isolation=report.isolation,
    )
