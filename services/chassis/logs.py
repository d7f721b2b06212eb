"""Logs: one JSON line per entry, with service, run and candidate if they are known; for people one sentence."""

import contextlib
import io
import logging
import sys
from typing import TextIO, cast

import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars, merge_contextvars
from structlog.processors import JSONRenderer, TimeStamper, add_log_level, format_exc_info
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, FilteringBoundLogger, Processor

HALF_CLOSED = "returning true from eof_received() has no effect when using ssl"
"""Logged by asyncio at each end of a TLS connection to NATS; it has no consequence."""


_CLOSED = (ValueError, AttributeError)
"""Errors of a stream that was closed, and of the None that stands for one that the process never had."""


class _Lines(io.TextIOBase):
    """Standard error, whatever it is at the time, without its errors: a full disk must not end the process."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, *_CLOSED):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, *_CLOSED):
            sys.stderr.flush()


def configure(service: str, level: str = "info") -> None:
    """Send every log line of this process, ours and the libraries', to stderr as JSON."""
    stamps: list[Processor] = [add_log_level, TimeStamper(fmt="iso", utc=True)]
    _configure(level, stamps, [format_exc_info, JSONRenderer()])
    bind_contextvars(service=service)


def configure_for_people(level: str = "warning") -> None:
    """As `configure`, for commands: a log line is a sentence, as their errors are."""
    _configure(level, [], [_sentence])


def _configure(level: str, stamps: list[Processor], rendering: list[Processor]) -> None:
    lines = _Lines()
    stamps = [merge_contextvars, *stamps]
    structlog.configure(
        processors=[*stamps, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", lines)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(lines)
    handler.addFilter(lambda record: record.getMessage() != HALF_CLOSED)
    processors = [ProcessorFormatter.remove_processors_meta, *rendering]
    handler.setFormatter(ProcessorFormatter(processors=processors, foreign_pre_chain=stamps))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    clear_contextvars()


def _sentence(logger: object, method: str, entry: EventDict) -> str:  # noqa: ARG001 - the signature of structlog
    """An entry as `asi-arch: the event (its other fields)`; of an exception its message only."""
    error = entry.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    elif isinstance(error, tuple):
        error = error[1]
    event = entry.pop("event")
    details = [f"{name}: {value}" for name, value in entry.items()]
    if error:
        details.append(str(error))
    return f"asi-arch: {event} ({', '.join(details)})" if details else f"asi-arch: {event}"


def get_logger() -> FilteringBoundLogger:
    """The logger of this process."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger
