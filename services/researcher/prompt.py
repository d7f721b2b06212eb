"""`python -m services.researcher.prompt ROLE --candidate C`: the question that the researcher would put.

propose: a child of the candidate. summarise: what the candidate's record comes to, as a reference of a proposal.
judge_novelty: whether the candidate repeats its nearest neighbours.
"""

from __future__ import annotations

import os
import sys

from pydantic import BaseModel

from services.chassis import logs
from services.chassis.rpc import channel
from services.contracts import archive_pb2_grpc, cognition_pb2_grpc
from services.contracts import candidate_pb2 as pb
from services.llm.openai_embedder import endpoint_embedder
from services.llm.port import Request, Role
from services.llm.prompts import main, plain
from services.researcher.model_proposer import novelty_request, propose_request, summary_request
from services.researcher.settings import ResearcherSettings
from services.researcher.tools import Desk

UNWRITTEN = "(a summary, written anew by a model whenever a proposal is asked for)"


async def question(
    settings: ResearcherSettings, archive: archive_pb2_grpc.ArchiveAsyncStub, record: pb.Candidate, role: Role
) -> Request[BaseModel]:
    """What would be asked now. Summaries of references do not exist before they are asked for, so a mark stands in."""
    if role is Role.SUMMARISE:
        return plain(summary_request(record, record))
    async with channel(settings.cognition_address, settings) as connection:
        desk = Desk(archive, cognition_pb2_grpc.CognitionStub(connection), endpoint_embedder(os.environ))
        if role is Role.JUDGE_NOVELTY:
            near = [motivation.candidate for motivation in await desk.motivations(record)]
            proposal = record.proposal
            return plain(novelty_request(record, proposal.motivation, proposal.program, near))
        context = await desk.context(record)
        return plain(propose_request(context, (), [UNWRITTEN] * len(context.references)))


if __name__ == "__main__":
    logs.configure("researcher", "error")
    sys.exit(main("researcher", ResearcherSettings, (Role.PROPOSE, Role.SUMMARISE, Role.JUDGE_NOVELTY), question))
