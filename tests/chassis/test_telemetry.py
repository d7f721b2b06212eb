"""Tracing is off until it is asked for, costs nothing then, and follows candidates, not runs."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from services.chassis import telemetry
from services.chassis.errors import SettingsError
from services.chassis.events import Cause, first, follow
from services.contracts import events_pb2 as pb
from tests.chassis.collector import Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector of spans."""
    listening = Collector()
    yield listening
    listening.stop()


def traced(candidate: str) -> pb.Event:
    """An event about a candidate that was said within some span."""
    event = follow(Cause.published(first("r1", "started", "console")), "requested", "store", 1, candidate)
    event.trace["traceparent"] = f"00-{'1' * 32}-{'2' * 16}-01"
    return event


def test_without_an_endpoint_nothing_is_traced_and_opentelemetry_is_not_imported() -> None:
    """A service that is not traced needs neither the packages nor their start-up time."""
    code = (
        "import sys; from services.chassis import telemetry, rpc, worker, service\n"
        "telemetry.start('judge', None); carrier = {}\n"
        "with telemetry.span('one', {}, run='r', candidate='c'): telemetry.inject(carrier)\n"
        "assert not carrier\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_endpoint_without_the_packages_gives_one_message() -> None:
    """The images hold them only where EXTRAS=tracing was given."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from services.chassis import telemetry\n"
        "telemetry.start('judge', 'http://127.0.0.1:4317')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert f"{SettingsError.__name__}: ASI_OTLP_ENDPOINT is set" in done.stderr
    assert "pip install 'asi-arch[tracing]'" in done.stderr


def test_a_trace_follows_its_candidate_and_no_other() -> None:
    """Otherwise the whole run would be one trace: each end asks for the next seat."""
    cause = Cause.published(traced("c000001"))

    assert follow(cause, "proposed", "researcher", 1, "c000001").trace == cause.event.trace
    assert not follow(cause, "requested", "store", 1, "c000002").trace


def test_spans_below_a_carrier_share_its_trace_and_write_their_own_into_what_is_published(collector: Collector) -> None:
    """W3C trace context: version, trace, span, flags."""
    telemetry.start("judge", f"http://127.0.0.1:{collector.port}")
    event = traced("c000001")
    try:
        with telemetry.span("judge handles candidate.trained", event.trace, run="r1", candidate="c000001"):
            carrier: dict[str, str] = {}
            telemetry.inject(carrier)
        with telemetry.span("researcher handles candidate.requested", {}, run="r1", candidate="c000001"):
            inner: dict[str, str] = {}
            telemetry.inject(inner)
        with telemetry.span("again", {}, run="r1", candidate="c000001"):
            telemetry.fail(ValueError("the store is away"))
            again: dict[str, str] = {}
            telemetry.inject(again)
    finally:
        telemetry.stop()

    assert carrier["traceparent"].split("-")[1] == "1" * 32
    assert carrier["traceparent"].split("-")[2] != "2" * 16
    assert inner["traceparent"].split("-")[1] == again["traceparent"].split("-")[1]
    assert [span.name for span in collector.spans if not span.parent] == [
        "researcher handles candidate.requested",
        "again",
    ]
    assert [span.name for span in collector.spans if span.failed == "the store is away"] == ["again"]
    assert {span.candidate for span in collector.spans} == {"c000001"}


def test_a_collector_that_is_away_does_not_hold_up_the_end_of_a_service() -> None:
    """Only spans are lost."""
    telemetry.start("judge", "http://127.0.0.1:9")
    with telemetry.span("one", {}):
        pass
    started = time.monotonic()
    telemetry.stop()

    assert time.monotonic() - started < telemetry.EXPORT_SECONDS + 3


@pytest.mark.parametrize("attributes", [{}, {"run": "r1"}, {"run": "r1", "candidate": ""}])
def test_spans_without_a_candidate_get_their_own_trace(collector: Collector, attributes: dict[str, str]) -> None:
    """Such spans are unrelated."""
    telemetry.start("store", f"http://127.0.0.1:{collector.port}")
    carriers: list[dict[str, str]] = [{}, {}]
    try:
        for carrier in carriers:
            with telemetry.span("one", {}, **attributes):
                telemetry.inject(carrier)
    finally:
        telemetry.stop()

    assert carriers[0]["traceparent"].split("-")[1] != carriers[1]["traceparent"].split("-")[1]
