"""Log lines: JSON of a service, sentences of a command."""

import json
import subprocess
import sys

PROGRAM = """
import logging
from services.chassis import logs
{configure}
log = logs.get_logger()
log.warning("disconnected from NATS")
try:
    raise OSError("the disk is full")
except OSError as error:
    log.error("a call failed", attempt=2, exc_info=error)
logging.getLogger("asyncio").warning("returning true from eof_received() has no effect when using ssl")
logging.getLogger("library").warning("%d things", 3)
log.info("started")
"""


def lines_of(configure: str) -> list[str]:
    """Standard error of a process that logs."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(configure=configure)], capture_output=True, text=True, check=True
    )
    assert not done.stdout
    return done.stderr.splitlines()


def test_a_command_logs_sentences() -> None:
    """People read them beside the command's own output; tracebacks are for the logs of services."""
    assert lines_of("logs.configure_for_people()") == [
        "asi-arch: disconnected from NATS",
        "asi-arch: a call failed (attempt: 2, the disk is full)",
        "asi-arch: 3 things",
    ]


def test_a_service_logs_json() -> None:
    """One object per line, whether it is ours or a library's."""
    entries = [json.loads(line) for line in lines_of("logs.configure('judge')")]

    assert [entry["event"] for entry in entries] == ["disconnected from NATS", "a call failed", "3 things", "started"]
    assert all(entry["level"] and entry["timestamp"] for entry in entries)
    assert "OSError: the disk is full" in entries[1]["exception"]
