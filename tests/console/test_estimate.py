# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicer
"""What a run asks of the machine that trains before it starts, and what is shown of the answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.chassis.errors import SettingsError
from services.chassis.rpc import Server
from services.console.estimate import settle
from services.console.rows import row
from services.console.settings import ConsoleSettings
from services.console.tables import mixed_precision
from services.contracts import candidate_pb2, checker_pb2, checker_pb2_grpc
from services.contracts import events_pb2 as pb


class Machine(checker_pb2_grpc.CheckerServicer):
    """Trains in float32, at one stage."""

    async def Profile(self, request: checker_pb2.ScaleRequest, context: Any) -> checker_pb2.MachineProfile:
        if request.stage != "tiny":
            raise ValueError(f"There is no scale {request.stage!r}.")
        return checker_pb2.MachineProfile(precision="fp32")


@asynccontextmanager
async def machine() -> AsyncIterator[ConsoleSettings]:
    """The settings with which a console reaches it."""
    server = Server(ConsoleSettings())
    checker_pb2_grpc.add_CheckerServicer_to_server(Machine(), server.grpc)
    await server.start()
    try:
        yield ConsoleSettings(checker_address=f"127.0.0.1:{server.port}")
    finally:
        await server.stop(0)


async def test_the_decision_of_the_machine_becomes_part_of_the_runs_settings() -> None:
    """Every engineer of the run follows it."""
    settings = pb.RunSettings(scale="tiny")
    async with machine() as client:
        sentence = await settle(client, settings)

    assert settings.scale_overrides["precision"] == "fp32"
    assert "fp32" in (sentence or "")


async def test_a_precision_that_was_asked_for_stays() -> None:
    """Nothing is measured for it."""
    settings = pb.RunSettings(scale="tiny", scale_overrides={"precision": "bf16-autocast"})

    assert await settle(ConsoleSettings(checker_address="127.0.0.1:1"), settings, 0.1) is None
    assert settings.scale_overrides["precision"] == "bf16-autocast"


async def test_without_an_engineer_the_decision_stays_open_and_a_scale_nobody_knows_stops_the_start() -> None:
    """A cluster may have no engineer before it has work."""
    settings = pb.RunSettings(scale="tiny")
    sentence = await settle(ConsoleSettings(checker_address="127.0.0.1:1"), settings, 0.3)

    assert "no engineer answers" in (sentence or "")
    assert not settings.scale_overrides
    async with machine() as client:
        with pytest.raises(SettingsError, match="no scale 'huge'"):
            await settle(client, pb.RunSettings(scale="huge"))


def test_a_list_of_results_in_different_precision_says_so() -> None:
    """Their order by loss would otherwise be believed."""
    rows = [row(_trained(precision)) for precision in ("fp32", "bf16-autocast", "fp32")]

    assert mixed_precision([rows[0], rows[2]]) is None
    assert "2 in fp32, 1 in bf16-autocast" in (mixed_precision(rows) or "")


def _trained(precision: str) -> candidate_pb2.Candidate:
    measured = candidate_pb2.Measurements(precision=precision)
    seeds = [candidate_pb2.SeedResult(seed=1, loss=1.5, measurements=measured)]
    return candidate_pb2.Candidate(id="c1", training=candidate_pb2.Training(seeds=seeds, loss=1.5))
