"""Ablations that the analyst requests on its own."""

import pytest

from services.analyst.comparison import Dossier
from services.analyst.handlers import ablations_wanted, components_to_ablate
from services.chassis.bus import Bus
from services.chassis.events import Cause, first
from services.chassis.worker import Job
from services.contracts import events_pb2
from tests.analyst.analyst_records import candidate, dossier

ROOT = candidate("delta_net", 1, losses=(1.6,))
PARENT = candidate("Parent", 2, losses=(1.55,), parent="c000001", components=("delta-rule", "forget-gate"))
PARTS = ("delta-rule", "output-gate", "chunkwise-form", "token-shift", "head-mixing")


def about(loss: float, budget: int | None = 3) -> Dossier:
    settings = events_pb2.RunSettings(mind="offline")
    settings.policies.CopyFrom(events_pb2.Policies(ablations=budget))
    record = candidate("Child", 3, losses=(loss,), parent="c000002", components=PARTS)
    result = dossier(record, root=ROOT, parent=PARENT)
    result.settings.CopyFrom(settings)
    return result


def test_new_components_of_better_candidates_are_ablated() -> None:
    """At most two, and no components of the implementation."""
    assert components_to_ablate(about(1.4)) == ["output-gate", "token-shift"]


@pytest.mark.parametrize(("loss", "budget"), [(1.4, None), (1.4, 0), (1.6, 3), (1.8, 3)])
def test_no_ablation_is_requested_without_a_gain_or_a_budget(loss: float, budget: int | None) -> None:
    """An ablation explains nothing without a gain."""
    assert components_to_ablate(about(loss, budget)) == []


async def test_a_redelivery_requests_the_same_ablation(bus: Bus) -> None:
    """Ids are made of candidate and component."""
    record = about(1.4).record
    event = first("r1", "judged", "judge")
    event.candidate = record.id
    event.candidate_judged.SetInParent()
    once = ablations_wanted(Job(Cause.published(event), 1, 1, bus, "analyst"), record, ["output-gate"])
    again = ablations_wanted(Job(Cause.published(event), 2, 1, bus, "analyst"), record, ["output-gate"])

    assert [request.id for request in once] == [request.id for request in again] == ["r1.c000003.wanted.output-gate.1"]
    assert not once[0].ablation_wanted.by_hand
