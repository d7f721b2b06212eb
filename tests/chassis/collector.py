"""A minimal OpenTelemetry collector, which receives spans over OTLP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class Span:
    """What was exported of one span."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    candidate: str
    failed: str  # why; empty where it did not


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Receives exported spans, as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def Export(  # noqa: N802 - the contract's name
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Keep the spans."""
        del context
        for group in request.resource_spans:
            names = {attribute.key: attribute.value.string_value for attribute in group.resource.attributes}
            for span in (exported for scope in group.scope_spans for exported in scope.spans):
                about = {attribute.key: attribute.value.string_value for attribute in span.attributes}
                ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                self.spans.append(
                    Span(names["service.name"], span.name, *ids, about.get("asi.candidate", ""), span.status.message)
                )
        return trace_service_pb2.ExportTraceServiceResponse()

    def stop(self) -> None:
        """End it."""
        self._server.stop(0)
