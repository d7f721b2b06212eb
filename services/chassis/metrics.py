"""Prometheus metrics of all services, served at ASI_METRICS_LISTEN if it is set."""

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from services.chassis.errors import reason_of
from services.chassis.settings import host_and_port
from services.contracts import events_pb2

HANDLER_SECONDS = Histogram(
    "asi_handler_seconds",
    "Time in a handler, per durable consumer",
    ["durable"],
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300, 1800, 7200, 36000),
)
REDELIVERIES = Counter("asi_redeliveries_total", "Deliveries after the first, per durable consumer", ["durable"])
DEAD_LETTERS = Counter("asi_dead_letters_total", "Messages that could not be handled", ["durable"])
DENIED = Counter("asi_denied_total", "Operations that the message bus refused", ["operation"])
for _operation in ("publish", "subscription"):
    DENIED.labels(_operation)  # start at 0: Prometheus does not see an increase from absent to one
SERVING = Gauge("asi_serving", "1 if the service can use the broker and its own dependencies")
FACTS = Counter("asi_facts_total", "Facts published by the handlers of this process", ["fact"])
TRAINING_SECONDS = Counter("asi_training_seconds_total", "Seconds spent training and evaluating", ["stage", "device"])
TRAINING_SPEED = Gauge("asi_training_tokens_per_second", "Training throughput of the newest result", ["stage"])
GPU_SECONDS = Counter("asi_gpu_seconds_total", "GPU-seconds of the trainings whose results were published", ["stage"])
TRAINED_TOKENS = Counter("asi_trained_tokens_total", "Tokens trained on, of published results", ["stage"])


def published(fact: str, event: events_pb2.Event) -> None:
    """Count a published event by its fact, and the resources of its trainings."""
    FACTS.labels(fact).inc()
    if fact in ("candidate.trained", "candidate.verified"):
        result = event.candidate_trained if fact == "candidate.trained" else event.candidate_verified
        for seed in result.training.seeds:
            GPU_SECONDS.labels(result.stage).inc(seed.measurements.gpu_seconds)
            TRAINED_TOKENS.labels(result.stage).inc(seed.measurements.tokens)


def serve(listen: str) -> None:
    """Serve all metrics for Prometheus at host:port. Raises OSError naming the setting."""
    host, port = host_and_port(listen)
    try:
        start_http_server(port, host)
    except OSError as error:
        raise OSError(f"cannot listen on ASI_METRICS_LISTEN={listen}: {reason_of(error)}") from error
