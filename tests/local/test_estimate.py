# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicer
"""What a run asks of the machine that trains before it starts, and what is shown of the answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from services.chassis.errors import NotPossible, SettingsError
from services.console.tables import mixed_conditions
from services.contracts import archive_pb2, candidate_pb2, checker_pb2, checker_pb2_grpc
from services.contracts import events_pb2 as pb
from services.local.estimate import (
    busy_sentence,
    decide_precision,
    estimate,
    plan_run,
    price_of,
    require_devices,
    sentence,
)
from services.local.plan import RunOptions, run_settings
from services.local.processes import processor_time
from services.local.settings import ClientSettings
from services.report.rows import row
from tests.partial_checker import PartialChecker
from tests.serving import serving

ADAPTING = RunOptions()


async def test_other_work_on_the_machine_is_named_before_the_estimate() -> None:
    """The same run takes twice as long when other work begins, and the estimate cannot know it."""
    idle, total = await processor_time(0.05)

    assert busy_sentence(90, 100) is None
    assert busy_sentence(25, 100) == (
        "other work takes 75% of this machine's processor time: the estimate holds only while that stays the same"
    )
    assert 0 <= idle <= total


class Machine(PartialChecker):
    """Trains in float32, two at once, and takes as many seconds per stage as a test says."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds or {"tiny": 60.0}

    async def Profile(self, request: checker_pb2.ScaleRequest, context: Any) -> checker_pb2.MachineProfile:
        if request.stage not in self.seconds:
            raise ValueError(f"There is no scale {request.stage!r}.")
        if request.scale_overrides["device"] == "cuda":
            raise NotPossible("torch finds no GPU")
        if request.scale_overrides["corpus"] == "hub":
            raise RuntimeError("the disk is upside down")
        if request.text and request.scale_overrides["corpus"] == "files":
            raise ValueError("There is no text in /nowhere.")
        precision = request.scale_overrides["precision"] or "fp32"
        profile = checker_pb2.MachineProfile(precision=precision, device="cpu", trainings=2)
        if request.speed:
            profile.tokens_per_second, profile.seconds = 9_000, self.seconds[request.stage]
        return profile


@asynccontextmanager
async def machine(**seconds: float) -> AsyncIterator[ClientSettings]:
    """The settings with which a console reaches it."""
    async with serving((checker_pb2_grpc.add_CheckerServicer_to_server, Machine(**seconds))) as address:
        yield ClientSettings(checker_address=address)


async def test_a_stage_that_the_machine_cannot_train_is_refused() -> None:
    """Also one of the promotion, for which the promoted candidates would wait."""
    on_gpu = pb.RunSettings(scale="tiny", scale_overrides={"device": "cuda"})
    later = pb.RunSettings(scale="tiny", promotion="paper", policies=pb.Policies(stages="tiny:device=cuda"))
    possible = pb.RunSettings(scale="tiny", promotion="paper", policies=pb.Policies(stages="tiny"))
    async with machine() as client:
        for settings in (on_gpu, later):
            with pytest.raises(SettingsError, match=r"torch finds no GPU.*set ASI_NATS_URL"):
                await require_devices(client, settings)
        await require_devices(client, possible)


async def test_the_decision_of_the_machine_becomes_part_of_the_runs_settings() -> None:
    """Every engineer of the run follows it."""
    settings = pb.RunSettings(scale="tiny")
    async with machine() as client:
        sentence = await decide_precision(client, settings)

    assert settings.scale_overrides["precision"] == "fp32"
    assert "fp32" in (sentence or "")


async def test_a_precision_that_was_asked_for_stays() -> None:
    """Nothing is measured for it."""
    settings = pb.RunSettings(scale="tiny", scale_overrides={"precision": "bf16-autocast"})

    assert await decide_precision(ClientSettings(checker_address="127.0.0.1:1"), settings, 0.1) is None
    assert settings.scale_overrides["precision"] == "bf16-autocast"


async def test_without_an_engineer_the_precision_stays_undecided_and_unknown_scales_are_refused() -> None:
    """A cluster may have no engineer before it has work."""
    settings = pb.RunSettings(scale="tiny")
    sentence = await decide_precision(ClientSettings(checker_address="127.0.0.1:1"), settings, 0.3)

    assert "no engineer answers" in (sentence or "")
    assert not settings.scale_overrides
    async with machine() as client:
        with pytest.raises(SettingsError, match="the engineer cannot use scale huge: There is no scale 'huge'"):
            await decide_precision(client, pb.RunSettings(scale="huge"))
        failed = await decide_precision(client, pb.RunSettings(scale="tiny", scale_overrides={"corpus": "hub"}))
    assert "the engineer answers with an error: RuntimeError: the disk is upside down" in (failed or "")


@pytest.mark.parametrize("precision", ["", "fp32"])
async def test_text_that_the_engineer_cannot_read_is_refused(precision: str) -> None:
    """Each candidate of a run that joins it would become a dead letter."""
    settings = pb.RunSettings(
        scale="tiny", scale_overrides={"corpus": "files"} | ({"precision": precision} if precision else {})
    )
    async with machine() as client:
        with pytest.raises(SettingsError, match="the engineer cannot use scale tiny: There is no text in /nowhere"):
            await decide_precision(client, settings)


async def test_a_fast_machine_does_the_usual_run_and_says_how_long_it_takes() -> None:
    """Six candidates beside five baselines."""
    notes, of_own = list[str](), list[str]()
    async with machine(tiny=40.0, mini=9.0) as client:
        settings = await plan_run(client, ADAPTING, run_settings(ADAPTING), [], notes.append)
        own = pb.RunSettings(programs=[pb.GivenProgram(name="mine"), pb.GivenProgram(name="delta_net")])
        own.MergeFrom(settings)
        await plan_run(client, ADAPTING, own, [], of_own.append)

    assert (settings.scale, settings.budget.candidates, settings.scale_overrides["precision"]) == ("tiny", 6, "fp32")
    assert notes[-1] == (
        "11 trainings (5 baselines, 6 candidates), about 4 minutes, up to 8 minutes if all losses are suspiciously "
        "low, and so trained again"
    )
    assert of_own[-1].startswith("12 trainings (5 baselines, 1 seed program, 6 candidates), ")


async def test_a_slower_machine_makes_fewer_candidates_and_a_slow_one_a_named_smaller_scale() -> None:
    """The loss of another scale means something else, so that the change is said with what it would have taken.

    The last of five baselines has the machine for itself, as proposals begin after it: three groups and two. Even if
    all losses are investigated, which takes four further trainings here, the run ends within ten minutes.
    """
    notes: list[str] = []
    async with machine(tiny=55.0, mini=9.0) as client:
        fewer = await plan_run(client, ADAPTING, run_settings(ADAPTING), [], notes.append)
    async with machine(tiny=160.0, mini=14.0) as client:
        smaller = await plan_run(client, ADAPTING, run_settings(ADAPTING), [], notes.append)

    assert (fewer.scale, fewer.budget.candidates) == ("tiny", 4)
    assert (smaller.scale, smaller.budget.candidates) == ("mini", 11)
    assert any("scale mini instead of tiny" in note and "cannot be compared" in note for note in notes)
    assert notes[-1].startswith("16 trainings (5 baselines, 11 candidates)")


async def test_what_an_engineer_cannot_measure_stays_open_and_is_said() -> None:
    """Engineers with GPUs may join later."""
    settings, notes = pb.RunSettings(scale="tiny", scale_overrides={"device": "cuda"}), list[str]()
    async with machine() as client:
        planned = await plan_run(client, RunOptions(), settings, [], notes.append)
        sentence = await decide_precision(client, settings)

    assert planned == settings
    assert notes == ["the duration of this run is unknown: torch finds no GPU"]
    assert "torch finds no GPU" in (sentence or "")
    assert "precision" not in settings.scale_overrides


async def test_an_explicit_budget_is_estimated_and_kept() -> None:
    """However long it takes."""
    options, notes = RunOptions(candidates=20), list[str]()
    async with machine(tiny=160.0) as client:
        settings = await plan_run(client, options, run_settings(options), [], notes.append)

    assert (settings.scale, settings.budget.candidates) == ("tiny", 20)
    assert "25 trainings" in notes[-1]
    assert "36 minutes" in notes[-1]


def test_a_budget_is_estimated_in_its_own_units_by_what_earlier_runs_cost() -> None:
    """Whichever of the budgets is used up first."""
    options = RunOptions(
        scale="explore", mind="openai", baselines=("delta_net",), gpu_hours=40.0, money=50.0, candidates=500
    )
    settings = run_settings(options)
    profile = checker_pb2.MachineProfile(device="cuda", trainings=1, seconds=3600.0)
    spent = archive_pb2.Spent(tokens=100_000, money=4.0)
    earlier = archive_pb2.RunStatus(settings=pb.RunSettings(mind="openai"), spent=spent, states={"archived": 10})
    by_gpu = estimate(settings, profile, None)
    by_money = estimate(run_settings(options.model_copy(update={"money": 4.0})), profile, price_of("openai", [earlier]))

    assert (by_gpu.candidates, by_gpu.gpu_seconds, by_gpu.money) == (39, 40 * 3600.0, None)
    assert (by_money.candidates, by_money.tokens, by_money.money) == (10, 100_000, 4.0)
    assert "(1 baseline, 39 candidates), about 40.1 hours, 40 GPU-hours" in sentence(settings, by_gpu)
    assert "1 candidate)" in sentence(settings, replace(by_gpu, candidates=1))
    assert "no earlier run" in sentence(settings, by_gpu)


def test_a_list_of_results_in_different_precision_says_so() -> None:
    """Their order by loss would otherwise be believed."""
    rows = [row(_trained(precision)) for precision in ("fp32", "bf16-autocast", "fp32")]

    assert mixed_conditions([rows[0], rows[2]]) is None
    assert "2 in fp32, 1 in bf16-autocast" in (mixed_conditions(rows) or "")


def test_a_list_of_results_on_different_text_says_so() -> None:
    """Some of its candidates have no fitness then. Each stage may have a text of its own."""
    records = [_trained("fp32") for _ in range(3)]
    for record, stage, text in zip(records, ("tiny", "tiny", "explore"), ("one", "another", "larger"), strict=True):
        record.stage = stage
        record.training.seeds[0].measurements.data_fingerprint = text
    rows = [row(record) for record in records]

    assert mixed_conditions([rows[0], rows[2]]) is None
    assert "different text (1 on one, 1 on another, 1 on larger)" in (mixed_conditions(rows) or "")


def _trained(precision: str) -> candidate_pb2.Candidate:
    measured = candidate_pb2.Measurements(precision=precision)
    seeds = [candidate_pb2.SeedResult(seed=1, loss=1.5, measurements=measured)]
    return candidate_pb2.Candidate(id="c1", training=candidate_pb2.Training(seeds=seeds, loss=1.5))
