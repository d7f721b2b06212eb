"""Runs all probes on a subject, one after the other, leaving out those that build on a failed one."""

import traceback
from collections.abc import Iterator

from services.engineer.checks.registry import PROBES, Probe
from services.engineer.checks.report import Finding
from services.engineer.checks.subject import Subject
from services.engineer.program import explained


def findings(subject: Subject) -> Iterator[tuple[Probe, Finding | None]]:
    """Yields each probe twice: as it begins, with None, and with what it found."""
    passed: set[str] = set(subject.settings.exempt)
    for probe in PROBES:
        if probe.name in subject.settings.exempt or not probe.reachable(passed):
            continue
        yield probe, None
        finding = _found(probe, subject)
        if not (finding.violated and probe.fatal):
            passed.add(probe.name)
        yield probe, finding


def _found(probe: Probe, subject: Subject) -> Finding:
    try:
        return probe.load()(subject)
    except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the error is the finding
        tail = "".join(traceback.format_exception(error))[-2000:]
        return Finding(True, f"raised {explained(error)}"[:800], {"traceback": tail})
