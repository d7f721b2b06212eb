"""Tracing: one trace per candidate, from proposal to archive, in W3C trace context. Off unless an endpoint is set.

    telemetry.start("judge", settings.otlp_endpoint)
    with telemetry.span("judge handles candidate.trained", event.trace, run=…, candidate=…):
        telemetry.inject(event.trace)        # a published event carries the current span

A trace context travels in `Event.trace`, in the header of the NATS message and in the metadata of gRPC calls. The id of
a candidate's trace is derived from its run and name, so that every service computes the same one.
OpenTelemetry is imported only where tracing is switched on.
"""

import hashlib
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from services.chassis.errors import SettingsError


class Tracing(Protocol):
    """Creates and exports spans."""

    def span(
        self, name: str, trace: Mapping[str, str], trace_id: int | None, attributes: Mapping[str, str]
    ) -> AbstractContextManager[None]:
        """A span for the duration of the context: a child of the span in `trace`, else the root of a trace."""
        ...

    def record(self, name: str, trace: Mapping[str, str], begun_ns: int, attributes: Mapping[str, str]) -> None:
        """A span that began at `begun_ns` (nanoseconds since the epoch) and ends now."""
        ...

    def inject(self, carrier: MutableMapping[str, str]) -> None:
        """Write the context of the current span into a carrier, if there is one."""
        ...

    def fail(self, error: Exception) -> None:
        """Mark the current span as failed."""
        ...

    def stop(self) -> None:
        """Export remaining spans."""
        ...


_tracing: Tracing | None = None


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
    """Export what is left and trace no more."""
    global _tracing
    if _tracing is not None:
        _tracing.stop()
    _tracing = None


def on() -> bool:
    """Whether this process traces."""
    return _tracing is not None


@contextmanager
def span(name: str, trace: Mapping[str, str], **attributes: str) -> Iterator[None]:
    """A span around the context. If `attributes` name a run and a candidate, it may start that candidate's trace."""
    if _tracing is None:
        yield
        return
    with _tracing.span(name, trace, _trace_id(attributes), attributes):
        yield


def record(name: str, trace: Mapping[str, str], begun_ns: int, **attributes: str) -> None:
    """Record a span since `begun_ns`, if there is a trace."""
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


def _trace_id(attributes: Mapping[str, str]) -> int | None:
    if not attributes.get("candidate"):
        return None
    name = f"{attributes.get('run', '')}/{attributes['candidate']}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:16]) or 1
