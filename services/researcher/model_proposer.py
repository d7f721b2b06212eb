"""Proposals by a language model: requests for motivation and program together, and for a judgement of novelty."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.archive.lessons import lessons_text
from services.archive.policies import MAX_EXPERIMENTS
from services.archive.scoring import program_of
from services.chassis.errors import Rejected
from services.contracts import candidate_pb2 as pb
from services.contracts import checker_pb2, checker_pb2_grpc
from services.domain.components import VOCABULARY
from services.llm.port import Block, Mind, Request, Role
from services.llm.prompts import load_prompt
from services.researcher import prompt_text
from services.researcher.draft import Context, Draft, Refusal

PACKAGE = "services.researcher"
MAX_EDIT_REPAIRS = 3
MAX_COMPONENTS = 20
TRIAL_STEPS, TRIAL_SEED, TRIAL_SECONDS = 30, 1, 600.0
EXPERIMENTS_OFFER = """

# Quick experiments

Before you commit you may have up to {left} made, one at a time: set `experiment` to "check" (all probes of the program
you give), "train" (30 steps, its training losses) or "compare" (the same beside the parent, on the same data). The
result comes back to you. Thirty steps tell a program that diverges or learns nothing from one that learns, and little
about the end of a training. Set `experiment` to "none" to propose."""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)


class IdeaAnswer(_Answer):
    """One idea and where it came from (table 3 of the paper)."""

    text: str = Field(min_length=3, max_length=600)
    origin: Literal["cognition", "analysis", "original"]
    source: str = ""


class EditAnswer(_Answer):
    """One replacement in the parent's program; its white space counts."""

    model_config = ConfigDict(str_strip_whitespace=False)

    search: str = Field(min_length=1, description="occurs exactly once in the parent's program")
    replace: str


class ProposalAnswer(_Answer):
    """A proposal: the program whole, or as edits of the parent's."""

    name: str = Field(min_length=3, max_length=80, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    motivation: str = Field(min_length=40, max_length=6000)
    components: list[str] = Field(default_factory=list, max_length=MAX_COMPONENTS)
    memory: Literal["fixed-state", "window", "growing"] | None = None
    ideas: list[IdeaAnswer] = Field(default_factory=list, max_length=10)
    edits: list[EditAnswer] = Field(default_factory=list, max_length=40)
    program: Annotated[str, Block("python")] = ""

    @model_validator(mode="after")
    def _one_of_both(self) -> "ProposalAnswer":
        given = bool(self.program.strip()), bool(self.edits)
        if given == (False, False):
            raise ValueError("there is neither a program nor an edit: give the whole program, or edits of the parent's")
        if given == (True, True):
            raise ValueError("there are both a program and edits: give only one of them, and leave the other empty")
        return self


class TryingAnswer(ProposalAnswer):
    """A proposal, or a program to be tried first: name, motivation and program are then as they stand."""

    experiment: Literal["none", "check", "train", "compare"] = Field(
        "none", description="none commits to the proposal; the others try its program and come back to you"
    )


class NoveltyAnswer(_Answer):
    """Whether a proposal repeats something."""

    repeat: bool
    candidate: str = ""
    reason: str = Field(min_length=3, max_length=600)


def apply_edits(edits: list[EditAnswer], program: str) -> str:
    """The program after all edits. Raises ValueError with the edit whose search text does not occur exactly once."""
    for number, edit in enumerate(edits, 1):
        count = program.count(edit.search)
        if count != 1:
            raise ValueError(f"edit {number}: its search text occurs {count} times in the program, not once")
        program = program.replace(edit.search, edit.replace)
    return program


def propose_request(
    context: Context, refusals: Sequence[Refusal], problem: str = "", ordinal: int = 0, experiments: int = 0
) -> Request[ProposalAnswer]:
    """The request for a proposal, with the `problem` of the last edits and the number of `experiments` that remain."""
    record, prompt = context.record, load_prompt(PACKAGE, "propose")
    known, root = (context.parent, *context.board), next(iter(context.settings.baselines), "")
    messages = prompt.messages(
        parent_name=context.parent.proposal.name,
        parent_record=prompt_text.record_text(context.parent, context.board),
        parent_program=program_of(context.parent),
        scale=prompt_text.scale_text(context.scale),
        limits=prompt_text.limits_text(
            context.settings,
            next((record for record in known if root and record.request.baseline == root), None),
            [record for record in known if record.kind == pb.KIND_BASELINE],
        ),
        noise=prompt_text.noise_text(context.board),
        best=prompt_text.best_text(context.best),
        board=prompt_text.board_text((*context.board, *context.rejections)),
        lessons=lessons_text(context.lessons),
        references=prompt_text.references_text(context.references),
        cognition=prompt_text.cognition_text(context.entries),
        refusals=prompt_text.refusals_text(refusals)
        + problem
        + (EXPERIMENTS_OFFER.format(left=experiments) if experiments else ""),
        focus=prompt_text.focus_text(record.request.number),
    )
    answer = TryingAnswer if experiments else ProposalAnswer
    return Request(Role.PROPOSE, record.run, record.id, messages, answer, prompt.version, ordinal=ordinal)


def ablate_request(
    original: pb.Candidate, record: pb.Candidate, refusals: Sequence[Refusal], problem: str = "", ordinal: int = 0
) -> Request[ProposalAnswer]:
    """The request to remove the component of the record's request from another candidate's program."""
    prompt, component = load_prompt(PACKAGE, "ablate"), record.request.without_component
    messages = prompt.messages(
        name=original.proposal.name,
        program=program_of(original),
        component=component,
        description=next((entry.description for entry in VOCABULARY if entry.name == component), "as its name says"),
        refusals=prompt_text.refusals_text(refusals) + problem,
    )
    return Request(Role.PROPOSE, record.run, record.id, messages, ProposalAnswer, prompt.version, ordinal=ordinal)


def novelty_request(
    record: pb.Candidate, motivation: str, program: str, neighbours: Sequence[pb.Candidate]
) -> Request[NoveltyAnswer]:
    """The request to judge whether a proposal repeats one of its nearest neighbours, on behalf of `record`."""
    prompt = load_prompt(PACKAGE, "novelty")
    messages = prompt.messages(
        motivation=motivation,
        difference=prompt_text.difference_text(program, neighbours),
        neighbours=prompt_text.neighbours_text(neighbours),
    )
    return Request(Role.JUDGE_NOVELTY, record.run, record.id, messages, NoveltyAnswer, prompt.version)


class ModelProposer:
    """Proposes by a language model, which with a `checker` may have experiments made before each draft."""

    def __init__(self, mind: Mind, checker: "checker_pb2_grpc.CheckerAsyncStub | None" = None) -> None:
        self._mind = mind
        self._checker = checker

    async def propose(self, context: Context, refusals: Sequence[Refusal]) -> Draft:
        """See the port. Raises the errors of the mind, and Rejected if no edits fit the parent's program."""
        allowed = min(MAX_EXPERIMENTS, context.settings.policies.experiments) if self._checker is not None else 0
        results: list[str] = []
        while True:

            def request(problem: str, repair: int) -> Request[ProposalAnswer]:
                ordinal = repair + (MAX_EDIT_REPAIRS + 1) * len(results)
                text = "".join(results) + problem
                return propose_request(context, refusals, text, ordinal, allowed - len(results))

            draft, experiment = await self._answered(request, program_of(context.parent))
            if experiment == "none" or len(results) >= allowed:
                return draft
            results.append(await self._experiment(context, draft, experiment, len(results) + 1))

    async def _experiment(self, context: Context, draft: Draft, kind: str, number: int) -> str:
        """The result of one quick experiment and its program, for the next request: calls have no memory."""
        assert self._checker is not None  # noqa: S101 - without one there are no experiments
        stage, overrides = context.record.stage, context.settings.scale_overrides
        if kind == "check":
            check = checker_pb2.CheckRequest(program=draft.program, stage=stage, scale_overrides=overrides)
            report = await self._checker.Check(check, timeout=TRIAL_SECONDS)
            failed = [f"{verdict.probe}: {verdict.message}" for verdict in report.verdicts if verdict.outcome == "fail"]
            result = "all probes pass" if report.passed else f"refused; {'; '.join(failed)}"
        else:
            programs = {"it": draft.program}
            if kind == "compare":
                programs[f"the parent {context.parent.proposal.name}"] = program_of(context.parent)
            parts = []
            for name, program in programs.items():
                trial = checker_pb2.TrialRequest(
                    program=program, stage=stage, scale_overrides=overrides, steps=TRIAL_STEPS, seed=TRIAL_SEED
                )
                trial_report = await self._checker.Trial(trial, timeout=TRIAL_SECONDS)
                losses = ", ".join(f"{point.train_loss:.3f} at step {point.step}" for point in trial_report.curve)
                parts.append(f"{name}: {trial_report.failure or losses}")
            result = "; ".join(parts)
        title = f"# Your quick experiment {number} ({kind}) with {draft.name}"
        return f"\n\n{title}\n\n{result}\n\n{prompt_text.draft_text(draft)}"

    async def without(self, original: pb.Candidate, record: pb.Candidate, refusals: Sequence[Refusal]) -> Draft:
        """See the port. Raises the errors of the mind, and Rejected if no edits fit the program."""

        def request(problem: str, repair: int) -> Request[ProposalAnswer]:
            return ablate_request(original, record, refusals, problem, repair)

        return (await self._answered(request, program_of(original)))[0]

    async def _answered(
        self, make_request: Callable[[str, int], Request[ProposalAnswer]], base: str
    ) -> tuple[Draft, str]:
        """Repeat the request until the answer is a program or edits that fit `base`; it receives the last problem.

        Returns the draft, and the experiment to make with it first, or "none".
        """
        problem, reason = "", ""
        for repair in range(MAX_EDIT_REPAIRS + 1):
            request = make_request(problem, repair)
            answer = (await self._mind.ask(request)).answer
            try:
                program = apply_edits(answer.edits, base) if answer.edits else f"{answer.program}\n"
            except ValueError as error:
                reason, last = str(error), answer.model_dump_json(indent=1, exclude_defaults=True)
                problem = f"\n\nYour last edits did not fit: {reason}. Give the whole program, or edits that do."
                problem += f" Your last answer:\n```json\n{last}\n```"
            else:
                experiment = answer.experiment if isinstance(answer, TryingAnswer) else "none"
                return self._draft(answer, program, request.prompt_version), experiment
        raise Rejected("propose", f"the edits never fitted the program: {reason}")

    async def repeats(self, context: Context, draft: Draft, neighbours: Sequence[pb.Candidate]) -> str:
        if not neighbours:
            return ""
        request = novelty_request(context.record, draft.motivation, draft.program, neighbours)
        answer = (await self._mind.ask(request)).answer
        return f"it repeats {answer.candidate or 'an earlier one'}: {answer.reason}" if answer.repeat else ""

    def _draft(self, answer: ProposalAnswer, program: str, version: str) -> Draft:
        return Draft(
            name=answer.name,
            motivation=answer.motivation,
            program=program,
            components=VOCABULARY.tags(answer.components),
            memory=answer.memory or "",
            ideas=[pb.Idea(text=idea.text, origin=idea.origin, source=idea.source) for idea in answer.ideas],
            mind=self._mind.name,
            prompt_version=version,
        )
