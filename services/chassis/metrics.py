"""Prometheus metrics of all services, served at ASI_METRICS_LISTEN if it is set."""

import contextlib
import time
from collections.abc import Iterator

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from services.chassis.settings import Address
from services.contracts import candidate_pb2, events_pb2

HANDLER_SECONDS = Histogram(
    "asi_handler_seconds",
    "Time in a handler, per durable consumer",
    ["durable"],
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300, 1800, 7200, 36000),
)
REDELIVERIES = Counter("asi_redeliveries_total", "Deliveries after the first, per durable consumer", ["durable"])
DEAD_LETTERS = Counter("asi_dead_letters_total", "Messages that could not be handled", ["durable"])
CANDIDATES = Gauge("asi_candidates", "Candidates of a run by state", ["run", "state"])
QUEUE = Gauge("asi_queue_messages", "Messages of a durable consumer, waiting or in hand", ["durable", "state"])
QUEUE_STATES = ("waiting", "in_hand")
MIND_TOKENS = Counter("asi_mind_tokens_total", "Language-model tokens", ["role", "model", "kind"])
MIND_MONEY = Counter("asi_mind_dollars_total", "Language-model cost in US dollars", ["role", "model"])
TRAINING_SECONDS = Counter("asi_training_seconds_total", "Seconds spent training and evaluating", ["stage", "device"])
TRAINING_SPEED = Gauge("asi_training_tokens_per_second", "Training throughput of the newest result", ["stage"])


DENIED = Counter("asi_denied_total", "Operations that the message bus refused", ["operation"])
FACTS = Counter("asi_facts_total", "Facts published by the handlers of this process", ["fact"])
GPU_SECONDS = Counter("asi_gpu_seconds_total", "GPU-seconds of the trainings whose results were published", ["stage"])
TRAINED_TOKENS = Counter("asi_trained_tokens_total", "Tokens trained on, of published results", ["stage"])


def serve(listen: str | None) -> None:
    """Start the exporter's own thread; None: no exporter."""
    if listen:
        address = Address.parse(listen)
        start_http_server(address.port, address.host)


def expect(durable: str) -> None:
    """Create the counters of a durable consumer at zero: Prometheus does not see an increase from absent to one."""
    REDELIVERIES.labels(durable)
    DEAD_LETTERS.labels(durable)


def published(fact: str, event: events_pb2.Event) -> None:
    """Count a published event by its fact, and the resources of its trainings."""
    FACTS.labels(fact).inc()
    if fact == "candidate.trained":
        _trained(event.candidate_trained.stage, event.candidate_trained.training)
    if fact == "candidate.verified":
        _trained(event.candidate_verified.stage, event.candidate_verified.training)


def _trained(stage: str, training: candidate_pb2.Training) -> None:
    for seed in training.seeds:
        GPU_SECONDS.labels(stage).inc(seed.measurements.gpu_seconds)
        TRAINED_TOKENS.labels(stage).inc(seed.measurements.tokens)


@contextlib.contextmanager
def handling(durable: str, deliveries: int) -> Iterator[None]:
    """Measure one delivery."""
    if deliveries > 1:
        REDELIVERIES.labels(durable).inc()
    begun = time.monotonic()
    try:
        yield
    finally:
        HANDLER_SECONDS.labels(durable).observe(time.monotonic() - begun)
