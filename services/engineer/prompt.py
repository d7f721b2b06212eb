"""`python -m services.engineer.prompt revise --candidate C`: the question by which a program is repaired."""

from __future__ import annotations

import sys

from pydantic import BaseModel

from services.chassis import logs
from services.chassis.errors import NotPossible
from services.contracts import archive_pb2_grpc
from services.contracts import candidate_pb2 as pb
from services.engineer.revision import Failure, revise_request
from services.engineer.settings import EngineerSettings
from services.llm.port import Request, Role
from services.llm.prompts import main, plain


async def question(
    settings: EngineerSettings, archive: archive_pb2_grpc.ArchiveAsyncStub, record: pb.Candidate, role: Role
) -> Request[BaseModel]:
    """About the candidate's last failure in training. Raises NotPossible for one that never failed there."""
    del settings, archive, role
    return plain(revise_request(record, last_failure(record)))


def last_failure(record: pb.Candidate) -> Failure:
    """The program that broke last, its error, and what was repaired before. Raises NotPossible where none did."""
    if revisions := record.training.revisions:
        history = "\n".join(f"- {revision.repair}" for revision in revisions[:-1])
        return Failure(revisions[-1].program, revisions[-1].error, "error", history)
    error = record.rejection.evidence.fields["error"].string_value
    if record.rejection.stage != "train" or not error:
        raise NotPossible(f"candidate {record.id} never failed in training, so there is nothing to repair")
    return Failure(record.proposal.program, error, record.rejection.evidence.fields["kind"].string_value)


if __name__ == "__main__":
    logs.configure("engineer", "error")
    sys.exit(main("engineer", EngineerSettings, (Role.REVISE,), question))
