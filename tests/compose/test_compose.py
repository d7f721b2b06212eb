"""The whole stack in containers: two engineers, MongoDB, an engineer and the store killed in the middle of a run."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc.aio
import pytest

from services.chassis.bus import Bus
from services.chassis.rpc import channel
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc
from services.contracts.candidate_pb2 import STATE_ARCHIVED, STATE_REJECTED
from services.local.log import start_run
from services.local.plan import RunOptions, run_settings
from services.local.settings import ClientSettings
from tests.compose.stack import DEPLOY, Stack, compose_command
from tests.loop.conftest import BENCHMARKS, MICRO

pytestmark = [pytest.mark.compose, pytest.mark.slow]
RUN = "compose"
FLAGS = RunOptions(candidates=2, baselines=("delta_net", "gated_delta_net"), overrides=(*MICRO, *BENCHMARKS))
ENDS = {"candidate_archived", "candidate_rejected"}


@pytest.fixture
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The compose file, up with two engineers; its logs stay in build/compose."""
    command = compose_command()
    if command is None:
        pytest.skip("no docker engine answers here")
    running = Stack(command, DEPLOY.parent / "build" / "compose")
    try:
        running.call("up", "-d", "--build", "--scale", "engineer=2")
        yield running
    finally:
        running.keep_logs()
        running.tear_down()


async def test_every_candidate_ends_once_though_an_engineer_and_the_store_are_killed(
    stack: Stack, tmp_path: Path
) -> None:
    """What is promised of the processes must hold for the containers: nothing lost, nothing twice."""
    settings = ClientSettings.model_validate(stack.console | {"data_dir": tmp_path})
    async with channel(settings.archive_address, settings) as connection:
        archive = archive_pb2_grpc.ArchiveStub(connection)
        await _streams_exist(settings)
        await start_run(settings, RUN, run_settings(FLAGS))
        await _until(archive, lambda about: about.states.get("training", 0) > 0, 420)
        stack.kill(stack.containers("engineer")[0])
        await _until(archive, lambda about: about.states.get("archived", 0) > 0, 420)
        stack.kill(stack.containers("store")[0])
        about = await _until(archive, lambda about: about.phase == "finished", 600)
        ends = await _ends(archive)
    replayed = json.loads(stack.call("exec", "-T", "store", "python", "-m", "services.store.tools", "replay", "--json"))

    assert about.proposals_ended == FLAGS.candidates
    assert set(ends.values()) == {1}, f"terminal facts per candidate: {ends}"
    assert replayed["agrees"], replayed["differences"]


async def _streams_exist(settings: ClientSettings) -> None:
    """The step `setup` makes them as soon as the broker is up."""
    deadline = time.monotonic() + 120
    async with Bus(settings, "asi-tests") as bus:
        while await bus.compare():
            assert time.monotonic() < deadline, "no streams within two minutes"
            await asyncio.sleep(1)


async def _until(
    archive: archive_pb2_grpc.ArchiveAsyncStub, holds: Callable[[pb.RunStatus], bool], seconds: float
) -> pb.RunStatus:
    """Ask until `holds`; a store that is down, or does not know the run yet, is asked again."""
    deadline = time.monotonic() + seconds
    last: pb.RunStatus | None = None
    while time.monotonic() < deadline:
        try:
            last = await archive.GetRun(pb.RunRequest(run=RUN), timeout=5)
        except grpc.aio.AioRpcError:
            last = None
        if last is not None and (holds(last) or last.phase == "finished"):
            return last
        await asyncio.sleep(0.3)
    raise AssertionError(f"not within {seconds:g} seconds: {last}")


async def _ends(archive: archive_pb2_grpc.ArchiveAsyncStub) -> dict[str, int]:
    """Accepted terminal facts per candidate; every candidate is at its end."""
    page = await archive.ListCandidates(pb.ListCandidatesRequest(run=RUN, page_size=500, slim=True), timeout=30)
    assert {candidate.state for candidate in page.candidates} <= {STATE_ARCHIVED, STATE_REJECTED}
    ends = {}
    for candidate in page.candidates:
        chain = await archive.GetChain(pb.GetCandidateRequest(run=RUN, candidate=candidate.id), timeout=30)
        ends[candidate.id] = sum(link.accepted and link.event.WhichOneof("fact") in ENDS for link in chain.links)
    return ends
