"""From candidate.promoted to candidate.verified: fresh seeds, unseen data, the overrides and the width of the rung."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.chassis.bus import Bus
from services.chassis.worker import Job
from services.contracts import events_pb2
from services.contracts.archive_pb2 import GetCandidateRequest
from services.domain.zoo import baseline
from services.engineer.data.corpus import share_of
from services.engineer.stages import Stages, overrides_for
from services.sandbox import Sandbox
from tests.console.published_events import next_of, whole_way
from tests.engineer.service.engineer_fixtures import SETTINGS, engineering
from tests.engineer.training.programs import CONVOLUTION, SMALL

in_session_loop = pytest.mark.asyncio(loop_scope="session")


@in_session_loop
async def test_a_finalist_is_trained_with_the_seeds_and_overrides_of_its_rung(
    bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """Its own step count, its own seeds; the result says which rung it belongs to, and carries no curve.

    A second delivery, after a lost acknowledgement or the import of a log, claims and trains nothing.
    """
    settings = events_pb2.RunSettings()
    settings.CopyFrom(SETTINGS)
    settings.seats, settings.budget.candidates, settings.promotion = 1, 1, "paper"
    settings.policies.CopyFrom(
        events_pb2.Policies(verify=1, block=1, stages="tiny:steps=3", verify_seeds=2, flops="none")
    )
    async with engineering(sandbox, stages, tmp_path, bus, settings) as (engineer, archive):
        await whole_way(bus, CONVOLUTION, loss=2.0)
        await whole_way(bus, CONVOLUTION, loss=1.0)
        cause, sequence, attempt = await next_of(bus, "engineer-tiny")
        (event,) = await engineer.handle(Job(cause, attempt, sequence, bus, "engineer-tiny"))
        stored = await bus.publish(event)
        request = GetCandidateRequest(run="r1", candidate=event.candidate, at_least=stored)
        record = await archive.stub.GetCandidate(request, timeout=30)
        again = await engineer.handle(Job(cause, attempt + 1, sequence, bus, "engineer-tiny"))
        later = await archive.stub.GetCandidate(request, timeout=30)

    assert again == []
    assert later.claims == record.claims
    verified = event.candidate_verified
    assert (verified.rung, verified.stage) == (1, "tiny")
    assert [seed.seed for seed in verified.training.seeds] == list(cause.event.candidate_promoted.seeds)
    tokens = 3 * int(SMALL["batch"]) * int(SMALL["context"])
    assert [seed.measurements.tokens for seed in verified.training.seeds] == [tokens, tokens]
    assert not any(seed.curve for seed in verified.training.seeds)
    assert event.id.startswith(f"r1.{cause.event.candidate}.verified.")


def test_rungs_share_no_held_out_data() -> None:
    """What selected the finalists must not judge them."""
    part = np.arange(100, dtype=np.uint8)
    shares = [set(share_of(part, rung, 3).tolist()) for rung in (1, 2, 3)]

    assert all(len(share) == 33 for share in shares)
    assert len(set.union(*shares)) == 99
    assert len(share_of(part, 1, 1)) == 100


@pytest.mark.slow
@in_session_loop
async def test_a_big_candidate_is_made_narrower_until_it_has_the_parameters_wanted(stages: Stages) -> None:
    """Instead of being refused."""
    program, overrides = baseline("gated_delta_net").program, {**SMALL, "width": "64", "heads": "2"}
    stage = await stages.open("tiny", overrides)
    own = (await stages.check(stage, program, exempt_from_cost=True, thorough=False)).parameters
    assert own is not None
    narrower = await overrides_for(stages, "tiny", overrides, program, round(own * 0.8))

    assert 40 <= int(narrower["width"]) < 64
