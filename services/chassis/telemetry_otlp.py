"""Tracing with OpenTelemetry, exported by OTLP over gRPC. Imported only where tracing is switched on."""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

EXPORT_SECONDS = 2.0
"""Timeout of a batch, which limits how long an unreachable collector delays the end of a service."""
_next_trace_id: ContextVar[int | None] = ContextVar("trace id of the next first span", default=None)


class _Ids(RandomIdGenerator):
    """Random ids, except for traces with a predetermined id."""

    def generate_trace_id(self) -> int:
        return _next_trace_id.get() or super().generate_trace_id()


class OtlpTracing:
    """Creates spans and exports them in a thread; `services.chassis.telemetry` documents the methods."""

    def __init__(self, service: str, endpoint: str) -> None:
        resource = Resource.create({"service.name": f"asi-{service}"})
        self._provider = TracerProvider(resource=resource, id_generator=_Ids(), shutdown_on_exit=False)
        insecure = endpoint.startswith("http://")
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=insecure, timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("asi-arch")
        self._context = TraceContextTextMapPropagator()

    @contextmanager
    def span(
        self, name: str, trace: Mapping[str, str], trace_id: int | None, attributes: Mapping[str, str]
    ) -> Iterator[None]:
        token = _next_trace_id.set(trace_id)
        try:
            span = self._start_span(name, trace, attributes)
        finally:
            _next_trace_id.reset(token)
        with api.use_span(span, end_on_exit=True):
            yield

    def record(self, name: str, trace: Mapping[str, str], begun_ns: int, attributes: Mapping[str, str]) -> None:
        self._start_span(name, trace, attributes, begun_ns).end()

    def inject(self, carrier: MutableMapping[str, str]) -> None:
        self._context.inject(carrier)

    def fail(self, error: Exception) -> None:
        span = api.get_current_span()
        span.record_exception(error)
        span.set_status(api.StatusCode.ERROR, str(error))

    def stop(self) -> None:
        self._provider.shutdown()

    def _start_span(
        self, name: str, trace: Mapping[str, str], attributes: Mapping[str, str], begun_ns: int | None = None
    ) -> api.Span:
        parent = self._context.extract(dict(trace), context=Context())
        named = {f"asi.{key}": value for key, value in attributes.items()}
        return self._tracer.start_span(name, parent, attributes=named, start_time=begun_ns)
