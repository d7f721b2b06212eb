"""Logs: one JSON line per entry, with service, run and candidate if they are known."""

import contextlib
import io
import logging
import sys
from typing import TextIO, cast

import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars, merge_contextvars
from structlog.processors import JSONRenderer, TimeStamper, add_log_level, format_exc_info
from structlog.stdlib import ProcessorFormatter
from structlog.typing import FilteringBoundLogger, Processor


class _Lines(io.TextIOBase):
    """A stream for log lines that ignores OSError: a full disk must not end the process."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def configure(service: str, level: str = "info") -> None:
    """Send every log line of this process, ours and the libraries', to stderr as JSON."""
    lines = _Lines(sys.stderr)
    stamps: list[Processor] = [merge_contextvars, add_log_level, TimeStamper(fmt="iso", utc=True)]
    rendering: list[Processor] = [format_exc_info, JSONRenderer()]
    structlog.configure(
        processors=[*stamps, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", lines)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(lines)
    processors = [ProcessorFormatter.remove_processors_meta, *rendering]
    handler.setFormatter(ProcessorFormatter(processors=processors, foreign_pre_chain=stamps))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    clear_contextvars()
    bind_contextvars(service=service)


def get_logger() -> FilteringBoundLogger:
    """The logger of this process."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger
