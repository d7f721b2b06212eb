"""Repairs by a language model."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.chassis.worker import Job
from services.contracts import candidate_pb2 as pb
from services.engineer.revision import Failure, OfflineReviser, Repair
from services.llm.minds import Minds
from services.llm.port import Block, Request, Role
from services.llm.prompts import load_prompt


class RepairAnswer(BaseModel):
    """The repaired program, or none where the idea itself does not work."""

    model_config = ConfigDict(extra="ignore")
    what: str = Field(min_length=3, max_length=600, description="what was changed and why, in a sentence")
    program: Annotated[str, Block("python")] = ""


def revise_request(record: pb.Candidate, failure: Failure) -> Request[RepairAnswer]:
    """The question that is put, and that `asi-arch prompt revise` shows."""
    prompt = load_prompt("services.engineer", "revise")
    messages = prompt.messages(program=failure.program, error=failure.error, history=failure.history or "Nothing.")
    return Request(Role.REVISE, record.run, record.id, messages, RepairAnswer, prompt.version)


class RunReviser:
    """Repairs by whatever mind the run has: the rules that an error dictates without one."""

    def __init__(self, minds: Minds) -> None:
        self._minds = minds
        self._offline = OfflineReviser()

    async def revise(self, job: Job, record: pb.Candidate, failure: Failure) -> Repair | None:
        """As the port says. Raises what the mind raises."""
        mind = await self._minds.mind(record.request.mind, job)
        if mind is None:
            return await self._offline.revise(job, record, failure)
        answer = (await mind.ask(revise_request(record, failure))).answer
        return Repair(answer.program, answer.what) if answer.program.strip() else None
