"""A run of a deployment with least rights, encryption, metrics and traces."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.make_env import TLS
from services.chassis.bus.topology import topology
from services.contracts.archive_pb2 import RunStatus
from services.contracts.candidate_pb2 import Candidate
from tests.chassis.collector import Span
from tests.chassis.nats_server import NatsServer
from tests.deploy.laboratory import RUN, Laboratory, Series, scripted_model

pytestmark = pytest.mark.slow
MAKE = Path(__file__).parents[2] / "deploy" / "make_certificates.sh"
GAUGES_SECONDS = 7.0


class Seen:
    """What was seen of the run: the archive's word, the metrics at its end, the spans and the logs."""

    def __init__(self, laboratory: Laboratory) -> None:
        self.about, self.records, self.series = asyncio.run(self._watch(laboratory))
        laboratory.stop()
        self.spans, self.logs = laboratory.collector.spans, laboratory.logs()

    async def _watch(self, laboratory: Laboratory) -> tuple[RunStatus, list[Candidate], Series]:
        await laboratory.start()
        about, records = await laboratory.run(240)
        await asyncio.sleep(GAUGES_SECONDS)
        return about, records, laboratory.scrape()

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series of a name with these labels."""
        return sum(
            value for (one, held), value in self.series.items() if one == name and labels.items() <= dict(held).items()
        )


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """The run, once for all tests of this file."""
    folder = tmp_path_factory.mktemp("laboratory")
    subprocess.run([MAKE, folder / "certificates"], check=True)
    tls = TLS.replace("/certificates", str(folder / "certificates" / "nats"))
    broker = NatsServer(folder / "nats", tls)
    broker.start()
    model, url = scripted_model(folder)
    laboratory = Laboratory(broker, folder / "certificates", folder, url)
    try:
        yield Seen(laboratory)
    finally:
        laboratory.stop()
        model.kill()
        model.wait()
        broker.stop()


def trainings(seen: Seen) -> list[Candidate]:
    """The candidates that were trained."""
    return [one for one in seen.records if one.HasField("training")]


def test_the_rights_of_each_service_suffice_for_a_candidate_s_whole_way(seen: Seen) -> None:
    """From the seat to the archive, baselines and a model's proposal, and nothing was denied on the way."""
    assert seen.about.phase == "finished"
    assert len(seen.records) == 3
    assert len(trainings(seen)) >= 2
    assert all(one.HasField("analysis") for one in trainings(seen))
    assert not [line for line in seen.logs if line.get("denied")]
    assert seen.total("asi_denied_total") == 0
    assert not [line for line in seen.logs if line.get("event") == "dead letter"]


def test_candidates_by_state_are_what_the_archive_holds(seen: Seen) -> None:
    """The dashboard's first panel."""
    states = dict(seen.about.states)

    assert {state: seen.total("asi_candidates", run=RUN, state=state) for state in states} == states
    assert seen.total("asi_candidates", run=RUN) == len(seen.records)


def test_queues_are_empty_at_the_end_and_every_one_is_shown(seen: Seen) -> None:
    """One exporter, also for engineers of stages that nobody serves."""
    durables = {spec.durable for spec in topology()[1]}
    shown = {dict(labels)["durable"] for name, labels in seen.series if name == "asi_queue_messages"}

    assert shown == durables
    assert seen.total("asi_queue_messages") == 0


def test_handled_facts_and_trainings_are_counted_as_archived(seen: Seen) -> None:
    """Handler times, facts, seconds, tokens and GPU-seconds add up to the records."""
    trained = trainings(seen)
    measured = [seed.measurements for one in trained for seed in one.training.seeds]

    assert seen.total("asi_facts_total", fact="candidate.trained") == len(trained)
    # A candidate that waits for its baselines is delivered to the judge again.
    assert seen.total("asi_handler_seconds_count", durable="judge") >= len(trained)
    assert seen.total("asi_handler_seconds_count", durable="researcher") >= len(seen.records)
    assert seen.total("asi_training_seconds_total") == pytest.approx(sum(one.seconds for one in measured))
    assert seen.total("asi_trained_tokens_total") == sum(one.tokens for one in measured)
    assert seen.total("asi_gpu_seconds_total") == pytest.approx(sum(one.gpu_seconds for one in measured))
    assert seen.total("asi_training_tokens_per_second", stage="tiny") > 0
    assert seen.total("asi_dead_letters_total") == 0
    assert {dict(labels)["durable"] for name, labels in seen.series if name == "asi_dead_letters_total"} >= {
        "judge", "analyst", "researcher", "engineer-tiny",
    }  # fmt: skip


def test_tokens_and_money_are_counted_as_archived(seen: Seen) -> None:
    """Every call is in some candidate's record, with what it cost."""
    calls = [call for one in seen.records for call in one.calls]

    assert calls
    assert seen.total("asi_mind_tokens_total", kind="prompt") == sum(call.prompt_tokens for call in calls)
    assert seen.total("asi_mind_tokens_total", kind="completion") == sum(call.completion_tokens for call in calls)
    assert seen.total("asi_mind_dollars_total") == pytest.approx(sum(call.price for call in calls))
    assert sum(call.price for call in calls) > 0


def test_the_spans_of_a_candidate_are_one_trace_from_proposal_to_archive(seen: Seen) -> None:
    """One trace id; each delivery of the request begins it, every other span is below one of the same trace."""
    for record in seen.records:
        spans = [one for one in seen.spans if one.candidate == record.id]
        (trace,) = {one.trace for one in spans}
        whole = [one for one in seen.spans if one.trace == trace]
        services = {one.service.removeprefix("asi-") for one in whole}

        assert services >= {"researcher", "store"}
        if record.HasField("analysis"):
            assert services == {"researcher", "engineer", "judge", "analyst", "store"}
            assert any("candidate.analysed" in one.name or ".archived." in one.name for one in whole)
        assert {one.name for one in whole if not one.parent} == {"researcher handles candidate.requested"}
        assert {one.parent for one in whole if one.parent} <= {one.id for one in whole}


def test_questions_over_grpc_belong_to_the_trace_of_who_asked(seen: Seen) -> None:
    """The check of a proposal runs in the engineer, for the researcher."""
    (proposal,) = [one for one in seen.records if not one.request.baseline]
    trace = next(one.trace for one in seen.spans if one.candidate == proposal.id)
    checks: list[Span] = [one for one in seen.spans if one.name == "Checker/Check" and one.trace == trace]

    assert checks
    assert {one.service for one in checks} == {"asi-engineer"}
