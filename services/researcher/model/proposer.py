"""A language model behind the port of proposing: summaries, one chain for motivation and program, novelty judged."""

import asyncio
from collections.abc import Callable, Sequence

from services.chassis.errors import Rejected
from services.contracts import candidate_pb2 as pb
from services.domain.components import VOCABULARY
from services.llm.port import Mind, Request, Role
from services.llm.prompts import load_prompt
from services.researcher.draft import Context, Draft, Refusal
from services.researcher.model.answers import NoveltyAnswer, ProposalAnswer, SummaryAnswer, applied
from services.researcher.model.telling import (
    NOTHING,
    cognition_text,
    record_text,
    references_text,
    refusals_text,
    rejections_text,
)

PACKAGE = "services.researcher"
MOST_EDIT_REPAIRS = 3


def propose_request(
    context: Context, refusals: Sequence[Refusal], summaries: Sequence[str], problem: str = "", ordinal: int = 0
) -> Request[ProposalAnswer]:
    """The question of a proposal; one summary per reference, `problem` of the last edits."""
    record, prompt = context.record, load_prompt(PACKAGE, "propose")
    messages = prompt.messages(
        parent_name=context.parent.proposal.name,
        parent_record=record_text(context.parent),
        parent_program=parent_program(context),
        references=references_text(context.references, summaries),
        cognition=cognition_text(context.entries),
        rejections=rejections_text(context.rejections),
        refusals=refusals_text(refusals) + problem,
    )
    return Request(Role.PROPOSE, record.run, record.id, messages, ProposalAnswer, prompt.version, ordinal=ordinal)


def ablate_request(
    original: pb.Candidate, record: pb.Candidate, refusals: Sequence[Refusal], problem: str = "", ordinal: int = 0
) -> Request[ProposalAnswer]:
    """The question that takes the component of the record's request out of another candidate's program."""
    prompt, component = load_prompt(PACKAGE, "ablate"), record.request.without_component
    messages = prompt.messages(
        name=original.proposal.name,
        program=trained_program(original),
        component=component,
        description=next((one.description for one in VOCABULARY if one.name == component), "as its name says"),
        refusals=refusals_text(refusals) + problem,
    )
    return Request(Role.PROPOSE, record.run, record.id, messages, ProposalAnswer, prompt.version, ordinal=ordinal)


def novelty_request(
    record: pb.Candidate, motivation: str, neighbours: Sequence[pb.Candidate]
) -> Request[NoveltyAnswer]:
    """The question whether a motivation repeats one of its neighbours, put on behalf of `record`."""
    prompt = load_prompt(PACKAGE, "novelty")
    listed = "\n\n".join(f"[{one.id}] {one.proposal.name}: {one.proposal.motivation}" for one in neighbours)
    messages = prompt.messages(motivation=motivation, neighbours=listed or NOTHING)
    return Request(Role.JUDGE_NOVELTY, record.run, record.id, messages, NoveltyAnswer, prompt.version)


def summary_request(record: pb.Candidate, reference: pb.Candidate) -> Request[SummaryAnswer]:
    """The question that condenses a reference, put on behalf of `record`."""
    prompt = load_prompt(PACKAGE, "summarise")
    messages = prompt.messages(record=f"{reference.proposal.name}\n{record_text(reference)}")
    return Request(Role.SUMMARISE, record.run, record.id, messages, SummaryAnswer, prompt.version)


class ModelProposer:
    """Proposes for one seat through a mind. Summaries are made anew for every seat and never stored (the paper)."""

    def __init__(self, mind: Mind) -> None:
        self._mind = mind
        self._summaries: dict[str, str] = {}  # by reference; a seat's later drafts are written from the same ones

    async def propose(self, context: Context, refusals: Sequence[Refusal]) -> Draft:
        """As the port says. Raises what the mind raises; Rejected when edits never fit the parent's program."""
        summaries = await asyncio.gather(*(self._summary(context, one) for one in context.references))

        def question(problem: str, repair: int) -> Request[ProposalAnswer]:
            return propose_request(context, refusals, summaries, problem, repair)

        return await self._written(question, parent_program(context))

    async def without(self, original: pb.Candidate, record: pb.Candidate, refusals: Sequence[Refusal]) -> Draft:
        """As the port says. Raises what the mind raises; Rejected when edits never fit the program."""

        def question(problem: str, repair: int) -> Request[ProposalAnswer]:
            return ablate_request(original, record, refusals, problem, repair)

        return await self._written(question, trained_program(original))

    async def _written(self, question: Callable[[str, int], Request[ProposalAnswer]], base: str) -> Draft:
        """Ask until the answer is a program or edits that fit `base`; the question takes what was wrong with them."""
        problem = ""
        for repair in range(MOST_EDIT_REPAIRS + 1):
            request = question(problem, repair)
            answer = (await self._mind.ask(request)).answer
            try:
                program = applied(answer.edits, base) if answer.edits else f"{answer.program}\n"
            except ValueError as error:
                problem = f"\nYour last edits did not fit: {error}. Give the whole program, or edits that do."
            else:
                return self._draft(answer, program, request.prompt_version)
        raise Rejected("propose", f"the edits never fitted the program:{problem}")

    async def repeats(self, context: Context, draft: Draft, neighbours: Sequence[pb.Candidate]) -> str:
        """Why the draft repeats one of its neighbours by motivation, in a sentence; empty where it does not."""
        if not neighbours:
            return ""
        answer = (await self._mind.ask(novelty_request(context.record, draft.motivation, neighbours))).answer
        return f"it repeats {answer.candidate or 'an earlier one'}: {answer.reason}" if answer.repeat else ""

    async def _summary(self, context: Context, reference: pb.Candidate) -> str:
        if reference.id not in self._summaries:
            answered = await self._mind.ask(summary_request(context.record, reference))
            self._summaries[reference.id] = answered.answer.summary
        return self._summaries[reference.id]

    def _draft(self, answer: ProposalAnswer, program: str, version: str) -> Draft:
        known = [VOCABULARY.normalise(tag) for tag in answer.components if tag in VOCABULARY]
        return Draft(
            name=answer.name,
            motivation=answer.motivation,
            program=program,
            components=tuple(dict.fromkeys(known)),
            ideas=[pb.Idea(text=one.text, origin=one.origin, source=one.source) for one in answer.ideas],
            mind=self._mind.name,
            prompt_version=version,
        )


def parent_program(context: Context) -> str:
    """What the parent really trained."""
    return trained_program(context.parent)


def trained_program(record: pb.Candidate) -> str:
    """The program behind a candidate's numbers."""
    return record.training.program or record.proposal.program
