"""Checker.Check over real gRPC, with the real sandbox behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest
import torch

from services.chassis.errors import NotPossible
from services.chassis.rpc import channel
from services.chassis.settings import ServiceSettings
from services.contracts import checker_pb2, checker_pb2_grpc
from services.domain.syntax import MAX_BYTES
from services.engineer.checker import WAITING_PER_SLOT, CheckerService
from services.engineer.stages import Stages
from services.sandbox import MAX_LOST, Child, Limits, Sandbox, SandboxLost
from tests.engineer.training.programs import CONVOLUTION, SMALL, mixer
from tests.serving import serving

Context = grpc.aio.ServicerContext[Any, Any]
pytestmark = pytest.mark.asyncio(loop_scope="session")
LOOKS_AHEAD = mixer("x = x + hidden_states.flip(1).cumsum(1).flip(1)")


class Killed(Sandbox):
    """A sandbox whose children are killed from outside, unless `spared`; then it is the one it stands for."""

    spared = False

    def __init__(self, working: Sandbox) -> None:
        super().__init__()
        self._working = working

    @asynccontextmanager
    async def child(self, job: str, limits: Limits) -> AsyncIterator[Child]:
        if not self.spared:
            raise SandboxLost("a supervisor was killed")
        async with self._working.child(job, limits) as child:
            yield child


@asynccontextmanager
async def checker(stages: Stages) -> AsyncIterator[checker_pb2_grpc.CheckerAsyncStub]:
    """A client of the service with one slot."""
    service = checker_pb2_grpc.add_CheckerServicer_to_server, CheckerService(stages, 1)
    async with serving(service) as address, channel(address, ServiceSettings()) as connection:
        yield checker_pb2_grpc.CheckerStub(connection)


def asking(program: str, stage: str = "tiny") -> checker_pb2.CheckRequest:
    """At the small sizes of all these tests."""
    return checker_pb2.CheckRequest(program=program, stage=stage, scale_overrides=SMALL)


async def test_an_honest_program_passes_and_the_report_says_how_it_was_confined(
    sandbox: Sandbox, stages: Stages
) -> None:
    """Whoever reads the report knows what the verdicts rest on."""
    async with checker(stages) as stub:
        report = await stub.Check(asking(CONVOLUTION), timeout=120)

    assert report.passed, [verdict.message for verdict in report.verdicts if verdict.outcome == "fail"]
    assert report.isolation == sandbox.level
    assert report.parameters > 10_000


async def test_a_program_that_looks_ahead_is_refused_by_the_causality_probe(stages: Stages) -> None:
    """With evidence, over the wire."""
    async with checker(stages) as stub:
        report = await stub.Check(asking(LOOKS_AHEAD), timeout=120)

    assert not report.passed
    assert [verdict.probe for verdict in report.verdicts if verdict.outcome == "fail" and verdict.evidence.fields] != []
    assert "causality" in [verdict.probe for verdict in report.verdicts if verdict.outcome == "fail"]


@pytest.mark.parametrize("request_", [asking(CONVOLUTION, "huge"), asking("#" * (MAX_BYTES + 1))])
async def test_bad_input_is_an_invalid_argument(request_: checker_pb2.CheckRequest, stages: Stages) -> None:
    """An unknown stage, a program that no event could carry."""
    async with checker(stages) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Check(request_, timeout=60)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_queue_is_bounded(sandbox: Sandbox, tmp_path: Path) -> None:
    """Who comes when it is full is told at once, instead of waiting behind everybody: here behind a stage's opening."""
    room = 1 + WAITING_PER_SLOT
    async with checker(Stages(sandbox, tmp_path)) as stub:
        calls = [asyncio.ensure_future(stub.Check(asking("not python ("), timeout=120)) for _ in range(room + 3)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]

    assert refused
    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_the_machine_profile_holds_the_precision_of_the_run(stages: Stages) -> None:
    """Measured for `auto`; a precision that the run names is the answer as it is."""
    async with checker(stages) as stub:
        overrides = {**SMALL, "precision": "auto"}
        measured = await stub.Profile(checker_pb2.ScaleRequest(stage="tiny", scale_overrides=overrides), timeout=60)
        named = await stub.Profile(checker_pb2.ScaleRequest(stage="tiny", scale_overrides=SMALL), timeout=60)

    assert measured.precision in ("fp32", "bf16-autocast")
    assert named.precision == "fp32"


async def test_a_device_that_the_machine_lacks_is_not_measured(monkeypatch: pytest.MonkeyPatch, stages: Stages) -> None:
    """Else a run that begins here would train in fp32 on the GPUs that join it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    request = checker_pb2.ScaleRequest(stage="tiny", scale_overrides={**SMALL, "device": "cuda", "precision": "auto"})
    async with checker(stages) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="torch finds none here"):
            await stub.Profile(request, timeout=60)


async def test_text_that_cannot_be_used_is_refused_before_a_run_starts(stages: Stages, tmp_path: Path) -> None:
    """An internal error was taken for an engineer that does not answer, and each baseline was rejected."""
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    overrides = {**SMALL, "corpus": "files", "dataset": str(tmp_path)}
    async with checker(stages) as stub:
        for also in ({"speed": True}, {"text": True}):
            request = checker_pb2.ScaleRequest(stage="tiny", scale_overrides=overrides, **also)
            with pytest.raises(grpc.aio.AioRpcError, match=r"picture\.png is not text in UTF-8") as refused:
                await stub.Profile(request, timeout=60)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_trial_trains_a_few_steps_and_scores_nothing(stages: Stages) -> None:
    """A program that cannot run is an answer; too many steps are a mistake of the caller."""
    broken = mixer("raise ValueError('no')")

    def trial(program: str, steps: int) -> checker_pb2.TrialRequest:
        return checker_pb2.TrialRequest(program=program, stage="tiny", scale_overrides=SMALL, steps=steps, seed=1)

    async with checker(stages) as stub:
        report = await stub.Trial(trial(CONVOLUTION, 5), timeout=120)
        failed = await stub.Trial(trial(broken, 5), timeout=120)
        with pytest.raises(grpc.aio.AioRpcError, match="1 to 100"):
            await stub.Trial(trial(CONVOLUTION, 101), timeout=120)

    assert [point.step for point in report.curve] == [1, 2, 3, 4, 5]
    assert report.failure == ""
    assert failed.failure
    assert not failed.curve


async def test_checks_that_are_lost_each_time_are_given_up(sandbox: Sandbox, tmp_path: Path) -> None:
    """Their candidate would be checked without end, as callers repeat what is only unavailable.

    Also while the stage is opened, as at first; a check in between that is not lost begins a new count.
    """
    killed = Killed(sandbox)
    service, context = CheckerService(Stages(killed, tmp_path), 1), cast("Context", None)
    ends: list[type[Exception] | None] = []
    for attempt in range(3 * MAX_LOST):
        killed.spared = attempt == 2 * MAX_LOST - 1
        try:
            await service.Check(asking("not python ("), context)
            ends.append(None)
        except (SandboxLost, NotPossible) as error:
            ends.append(type(error))

    lost = [SandboxLost] * (MAX_LOST - 1)
    assert ends == [*lost, NotPossible, *lost, None, *lost, NotPossible]
