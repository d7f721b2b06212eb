"""Tracing: one trace per candidate, from proposal to archive, in W3C trace context. Off unless an endpoint is set.

A trace context travels in `Event.trace`, in the header of the NATS message and in the metadata of gRPC calls. The id of
a candidate's trace is derived from its run and name, so that every service computes the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from services.chassis.errors import SettingsError

if TYPE_CHECKING:  # imported only where tracing is switched on
    from opentelemetry.trace import Span

EXPORT_SECONDS = 2.0
"""Limits how long an unreachable collector delays the end of a service."""
_next_trace_id: ContextVar[int | None] = ContextVar("trace id of the next first span", default=None)
_tracing: _Tracing | None = None


class _Tracing:
    """Creates spans, which a thread exports by OTLP over gRPC."""

    def __init__(self, service: str, endpoint: str) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        class Ids(RandomIdGenerator):
            def generate_trace_id(self) -> int:
                return _next_trace_id.get() or super().generate_trace_id()

        resource = Resource.create({"service.name": f"asi-{service}"})
        self.provider = TracerProvider(resource=resource, id_generator=Ids(), shutdown_on_exit=False)
        insecure = endpoint.startswith("http://")
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=insecure, timeout=EXPORT_SECONDS)
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self.api, self.context = trace, TraceContextTextMapPropagator()
        self._tracer, self._empty = self.provider.get_tracer("asi-arch"), Context()

    def start_span(
        self, name: str, trace: Mapping[str, str], attributes: Mapping[str, str], begun_ns: int | None = None
    ) -> Span:
        parent = self.context.extract(dict(trace), context=self._empty)
        named = {f"asi.{key}": value for key, value in attributes.items()}
        return self._tracer.start_span(name, parent, attributes=named, start_time=begun_ns)


def start(service: str, endpoint: str | None) -> None:
    """Start tracing to the OTLP endpoint (gRPC), as in http://collector:4317; None: no tracing.

    Raises SettingsError when OpenTelemetry is not installed.
    """
    global _tracing
    try:
        _tracing = _Tracing(service, endpoint) if endpoint else None
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"ASI_OTLP_ENDPOINT is set, but {error.name} is not installed: pip install 'asi-arch[tracing]'."
        ) from None


def stop() -> None:
    """Export the remaining spans and stop tracing."""
    global _tracing
    if _tracing is not None:
        _tracing.provider.shutdown()
    _tracing = None


@contextmanager
def span(name: str, trace: Mapping[str, str], **attributes: str) -> Iterator[None]:
    """A span around the context: a child of the span in `trace`, else the root of the candidate's trace."""
    if _tracing is None:
        yield
        return
    candidate, run = attributes.get("candidate"), attributes.get("run", "")
    digest = hashlib.sha256(f"{run}/{candidate}".encode()).digest()
    token = _next_trace_id.set((int.from_bytes(digest[:16]) or 1) if candidate else None)
    try:
        started = _tracing.start_span(name, trace, attributes)
    finally:
        _next_trace_id.reset(token)
    with _tracing.api.use_span(started, end_on_exit=True):
        yield


def record(name: str, trace: Mapping[str, str], begun_ns: int, **attributes: str) -> None:
    """Record a span from `begun_ns` (nanoseconds since the epoch) until now, if there is a trace."""
    if _tracing is not None and trace:
        _tracing.start_span(name, trace, attributes, begun_ns).end()


def inject(carrier: MutableMapping[str, str]) -> None:
    """Write the trace context of the current span into `carrier`, if there is one."""
    if _tracing is not None:
        _tracing.context.inject(carrier)


def fail(error: Exception) -> None:
    """Mark the current span as failed when the error is not raised through it."""
    if _tracing is not None:
        current = _tracing.api.get_current_span()
        current.record_exception(error)
        current.set_status(_tracing.api.StatusCode.ERROR, str(error))
