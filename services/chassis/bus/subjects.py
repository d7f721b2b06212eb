"""Subjects: asi.v1.<run>.<entity>.<fact>, followed by the stage if the fact is work for an engineer."""

import re

from services.contracts import events_pb2 as pb

ALL = "asi.v1.>"
PROGRESS = "asi.progress.*.*"  # of a run and a candidate; not part of the log
STAGED = frozenset({"candidate.proposed", "candidate.promoted"})  # facts whose subject ends in a stage
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def run_name(name: str) -> str:
    """The name. Raises ValueError if it cannot be part of a subject."""
    if not _RUN_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a run name: use up to 64 letters, digits, '-' and '_'")
    return name


def fact_of(event: pb.Event) -> str:
    """The fact's name, such as "candidate.trained". Raises ValueError for an event without a known fact."""
    field = event.WhichOneof("fact")
    if field is None:
        raise ValueError(f"event {event.id!r} holds no fact that this version knows")
    if field == "dead":
        return "candidate.dead" if event.candidate else "run.dead"
    return field.replace("_", ".", 1)


def subject_of(event: pb.Event) -> str:
    """The subject that an event is published on."""
    fact = fact_of(event)
    subject = f"asi.v1.{run_name(event.run)}.{fact}"
    if fact in STAGED:
        subject += f".{getattr(event, fact.replace('.', '_')).stage}"
    return subject


def is_forged(subject: str, event: pb.Event) -> bool:
    """Whether an event's body does not belong to the subject that it was published on.

    The server checks only the subject against the publisher's permissions: without this check an engineer could publish
    a judge's fact on its own subject. For an unknown fact only the run is compared.
    """
    if event.WhichOneof("fact") is None:
        return not subject.startswith(f"asi.v1.{event.run}.")
    try:
        return subject_of(event) != subject
    except ValueError:
        return True
