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
from tests.deploy.system import RUN, Series, System, scripted_model

pytestmark = pytest.mark.slow
MAKE = Path(__file__).parents[2] / "deploy" / "make_certificates.sh"
GAUGES_SECONDS = 7.0


class ObservedRun:
    """Observations of a run: the archive's records, the metrics at its end, the spans and the logs."""

    def __init__(self, system: System) -> None:
        self.about, self.records, self.series = asyncio.run(self._watch(system))
        system.stop()
        self.spans, self.logs = system.collector.spans, system.logs()

    async def _watch(self, system: System) -> tuple[RunStatus, list[Candidate], Series]:
        await system.start()
        about, records = await system.run(240)
        await asyncio.sleep(GAUGES_SECONDS)
        return about, records, system.scrape()

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series of a name with these labels."""
        return sum(
            value
            for (series_name, series_labels), value in self.series.items()
            if series_name == name and labels.items() <= dict(series_labels).items()
        )


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObservedRun]:
    """The run, once for all tests of this file."""
    folder = tmp_path_factory.mktemp("system")
    subprocess.run([MAKE, folder / "certificates"], check=True)
    tls = TLS.replace("/certificates", str(folder / "certificates" / "nats"))
    broker = NatsServer(folder / "nats", tls)
    broker.start()
    model, url = scripted_model(folder)
    system = System(broker, folder / "certificates", folder, url)
    try:
        yield ObservedRun(system)
    finally:
        system.stop()
        model.kill()
        model.wait()
        broker.stop()


def trainings(observed: ObservedRun) -> list[Candidate]:
    """The candidates that were trained."""
    return [record for record in observed.records if record.HasField("training")]


def test_the_rights_of_each_service_suffice_for_a_whole_run(observed: ObservedRun) -> None:
    """From the seat to the archive, baselines and a model's proposal, and nothing was denied on the way."""
    assert observed.about.phase == "finished"
    assert len(observed.records) == 3
    assert len(trainings(observed)) >= 2
    assert all(record.HasField("analysis") for record in trainings(observed))
    assert not [line for line in observed.logs if line.get("denied")]
    assert observed.total("asi_denied_total") == 0
    assert not [line for line in observed.logs if line.get("event") == "dead letter"]


def test_candidates_by_state_agree_with_the_archive(observed: ObservedRun) -> None:
    """The dashboard's first panel."""
    states = dict(observed.about.states)

    assert {state: observed.total("asi_candidates", run=RUN, state=state) for state in states} == states
    assert observed.total("asi_candidates", run=RUN) == len(observed.records)


def test_queues_are_empty_at_the_end_and_every_one_is_shown(observed: ObservedRun) -> None:
    """One exporter, also for engineers of stages that nobody serves."""
    durables = {spec.durable for spec in topology()[1]}
    shown = {dict(labels)["durable"] for name, labels in observed.series if name == "asi_queue_messages"}

    assert shown == durables
    assert observed.total("asi_queue_messages") == 0


def test_handled_facts_and_trainings_are_counted_as_archived(observed: ObservedRun) -> None:
    """Handler times, facts, seconds, tokens and GPU-seconds add up to the records."""
    trained = trainings(observed)
    measured = [seed.measurements for record in trained for seed in record.training.seeds]

    assert observed.total("asi_facts_total", fact="candidate.trained") == len(trained)
    # A candidate that waits for its baselines is delivered to the judge again.
    assert observed.total("asi_handler_seconds_count", durable="judge") >= len(trained)
    assert observed.total("asi_handler_seconds_count", durable="researcher") >= len(observed.records)
    assert observed.total("asi_training_seconds_total") == pytest.approx(
        sum(measurements.seconds for measurements in measured)
    )
    assert observed.total("asi_trained_tokens_total") == sum(measurements.tokens for measurements in measured)
    assert observed.total("asi_gpu_seconds_total") == pytest.approx(
        sum(measurements.gpu_seconds for measurements in measured)
    )
    assert observed.total("asi_training_tokens_per_second", stage="tiny") > 0
    assert observed.total("asi_dead_letters_total") == 0
    assert {dict(labels)["durable"] for name, labels in observed.series if name == "asi_dead_letters_total"} >= {
        "judge", "analyst", "researcher", "engineer-tiny",
    }  # fmt: skip


def test_tokens_and_money_are_counted_as_archived(observed: ObservedRun) -> None:
    """Every call is in some candidate's record, with what it cost."""
    calls = [call for record in observed.records for call in record.calls]

    assert calls
    assert observed.total("asi_mind_tokens_total", kind="prompt") == sum(call.prompt_tokens for call in calls)
    assert observed.total("asi_mind_tokens_total", kind="completion") == sum(call.completion_tokens for call in calls)
    assert observed.total("asi_mind_dollars_total") == pytest.approx(sum(call.price for call in calls))
    assert sum(call.price for call in calls) > 0


def test_the_spans_of_a_candidate_are_one_trace_from_proposal_to_archive(observed: ObservedRun) -> None:
    """One trace id; each delivery of the request begins it, every other span is below one of the same trace."""
    for record in observed.records:
        spans = [span for span in observed.spans if span.candidate == record.id]
        (trace,) = {span.trace for span in spans}
        spans_of_trace = [span for span in observed.spans if span.trace == trace]
        services = {span.service.removeprefix("asi-") for span in spans_of_trace}

        assert services >= {"researcher", "store"}
        if record.HasField("analysis"):
            assert services == {"researcher", "engineer", "judge", "analyst", "store"}
            assert any("candidate.analysed" in span.name or ".archived." in span.name for span in spans_of_trace)
        assert {span.name for span in spans_of_trace if not span.parent} == {"researcher handles candidate.requested"}
        assert {span.parent for span in spans_of_trace if span.parent} <= {span.id for span in spans_of_trace}


def test_grpc_calls_belong_to_the_trace_of_the_caller(observed: ObservedRun) -> None:
    """The check of a proposal runs in the engineer, for the researcher."""
    (proposal,) = [record for record in observed.records if not record.request.baseline]
    trace = next(span.trace for span in observed.spans if span.candidate == proposal.id)
    checks: list[Span] = [span for span in observed.spans if span.name == "Checker/Check" and span.trace == trace]

    assert checks
    assert {span.service for span in checks} == {"asi-engineer"}
