"""Repairs of programs that broke in training: by a language model, or by a few honest rules without one."""

from dataclasses import dataclass
from typing import Protocol

from services.chassis.worker import Job
from services.contracts import candidate_pb2 as pb
from services.engineer.offline.repairs import repaired


@dataclass(frozen=True)
class Failure:
    """What went wrong: the program, the whole error (traceback, last metrics or the watcher's reason), its kind.

    `history` tells what was tried before.
    """

    program: str
    error: str
    kind: str
    history: str = ""


@dataclass(frozen=True)
class Repair:
    """The program to try next, and what was changed, in a sentence."""

    program: str
    what: str


class Reviser(Protocol):
    """Repairs programs, or says that it cannot."""

    async def revise(self, job: Job, record: pb.Candidate, failure: Failure) -> Repair | None:
        """None when there is nothing that it would change."""
        ...


class OfflineReviser:
    """Repairs without a language model: dtype, device, shape and signature slips; all else is given up at once."""

    async def revise(self, job: Job, record: pb.Candidate, failure: Failure) -> Repair | None:
        """As the port says."""
        del job, record
        if failure.kind != "error":
            return None
        found = repaired(failure.program, failure.error)
        return Repair(*found) if found else None
