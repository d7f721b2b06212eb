"""Tracing: one trace per candidate, from proposal to archive, in W3C trace context. Off unless an endpoint is set.

A trace context travels in `Event.trace`, in the header of the NATS message and in the metadata of gRPC calls. The id of
a candidate's trace is derived from its run and name, so that every service computes the same one.
OpenTelemetry is imported only where tracing is switched on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from services.chassis.errors import SettingsError

if TYPE_CHECKING:
    from services.chassis.telemetry_otlp import OtlpTracing


_tracing: OtlpTracing | None = None


def start(service: str, endpoint: str | None) -> None:
    """Start tracing to the OTLP endpoint (gRPC), as in http://collector:4317; None: no tracing.

    Raises SettingsError when OpenTelemetry is not installed.
    """
    global _tracing
    if endpoint is None:
        return
    try:
        from services.chassis.telemetry_otlp import OtlpTracing
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"ASI_OTLP_ENDPOINT is set, but {error.name} is not installed: pip install 'asi-arch[tracing]'."
        ) from None
    _tracing = OtlpTracing(service, endpoint)


def stop() -> None:
    """Export the remaining spans and stop tracing."""
    global _tracing
    if _tracing is not None:
        _tracing.stop()
    _tracing = None


@contextmanager
def span(name: str, trace: Mapping[str, str], **attributes: str) -> Iterator[None]:
    """A span around the context: a child of the span in `trace`, else the root of the candidate's trace."""
    if _tracing is None:
        yield
        return
    trace_id = None
    if candidate := attributes.get("candidate"):
        digest = hashlib.sha256(f"{attributes.get('run', '')}/{candidate}".encode()).digest()
        trace_id = int.from_bytes(digest[:16]) or 1
    with _tracing.span(name, trace, trace_id, attributes):
        yield


def record(name: str, trace: Mapping[str, str], begun_ns: int, **attributes: str) -> None:
    """Record a span from `begun_ns` (nanoseconds since the epoch) until now, if there is a trace."""
    if _tracing is not None and trace:
        _tracing.record(name, trace, begun_ns, attributes)


def inject(carrier: MutableMapping[str, str]) -> None:
    """Write the trace context of the current span into `carrier`, if there is one."""
    if _tracing is not None:
        _tracing.inject(carrier)


def fail(error: Exception) -> None:
    """Mark the current span as failed when the error is not raised through it."""
    if _tracing is not None:
        _tracing.fail(error)
