"""A language model that writes the five parts. What cites a number that the record does not hold is not taken."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from services.analyst.comparison import parameters_of, results, speed_of, task_means
from services.analyst.dossier import Dossier
from services.analyst.numbers import held_by, invented
from services.analyst.offline_analyst import OfflineAnalyst, components_of, hits_of
from services.chassis.errors import Rejected
from services.contracts import candidate_pb2 as pb
from services.domain.components import VOCABULARY
from services.llm.port import Mind, Request, Role
from services.llm.prompts import Prompt, load_prompt

TRIES = 2
NOTHING = "None."


class IdeaAnswer(BaseModel):
    """One idea and where it came from."""

    model_config = ConfigDict(extra="ignore")
    text: str = Field(min_length=3, max_length=600)
    origin: str = Field(pattern="^(cognition|analysis|original)$")
    source: str = ""


class LessonAnswer(BaseModel):
    """A claim about one component that later proposals should know."""

    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)
    component: str = Field(min_length=2, max_length=60)
    effect: Literal["helps", "hurts", "neutral"]
    claim: str = Field(min_length=10, max_length=300)


class AnalysisAnswer(BaseModel):
    """The paper's five parts, tags and origins."""

    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)
    design_evaluation: str = Field(min_length=10, max_length=4000)
    results: str = Field(min_length=10, max_length=4000)
    expectation: str = Field(min_length=10, max_length=4000)
    explanation: str = Field(min_length=10, max_length=4000)
    synthesis: str = Field(min_length=10, max_length=4000)
    components: list[str] = Field(default_factory=list, max_length=20)
    ideas: list[IdeaAnswer] = Field(default_factory=list, max_length=10)
    lessons: list[LessonAnswer] = Field(default_factory=list, max_length=3)


class ModelAnalyst:
    """Analyses through a mind; falls back on the comparison of numbers, and says so, when the model invents some."""

    def __init__(self, mind: Mind, offline: OfflineAnalyst) -> None:
        self._mind = mind
        self._offline = offline

    async def analyse(self, dossier: Dossier) -> pb.Analysis:
        """As the port says. Raises Transient while no model answers."""
        problem = ""
        for ordinal in range(TRIES):
            try:
                question = analyse_request(dossier, problem, ordinal)
                answer = (await self._mind.ask(question)).answer
            except Rejected as rejected:
                problem = str(rejected)
                break
            held = held_by(dossier, (message.text for message in analyse_request(dossier).messages))
            wrong = invented(" ".join(_parts(answer)), held)
            if not wrong:
                return self._analysis(answer, dossier)
            problem = f"it cited {', '.join(wrong[:5])}, which the record does not hold"
        analysis = await self._offline.analyse(dossier)
        analysis.analyst = f"{analysis.analyst}, after {self._mind.name} was not usable: {problem}"
        return analysis

    def _analysis(self, answer: AnalysisAnswer, dossier: Dossier) -> pb.Analysis:
        named = [tag for one in answer.components if (tag := VOCABULARY.tag(one))]
        return pb.Analysis(
            design_evaluation=answer.design_evaluation,
            results=answer.results,
            expectation=answer.expectation,
            explanation=answer.explanation,
            synthesis=answer.synthesis,
            components=list(dict.fromkeys(named)) or components_of(dossier.record),
            ideas=[pb.Idea(text=one.text, origin=one.origin, source=one.source) for one in answer.ideas],
            lessons=[
                pb.Lesson(component=VOCABULARY.tag(one.component), effect=one.effect, claim=one.claim)
                for one in answer.lessons
            ],
            cognition=hits_of(dossier),
            analyst=f"{self._mind.name}, {analyse_prompt().version}",
        )


def analyse_prompt() -> Prompt:
    """The five parts as they are asked of a model."""
    return load_prompt("services.analyst", "analyse")


def analyse_request(dossier: Dossier, problem: str = "", ordinal: int = 0) -> Request[AnalysisAnswer]:
    """The question that is put, and that `asi-arch prompt analyse` shows; `problem` of the last answer."""
    record, prompt = dossier.record, analyse_prompt()
    cognition = "\n".join(
        f"[{hit.knowledge.id}] {hit.knowledge.paper.title}: {hit.knowledge.entry.design_insight}"
        for hit in dossier.hits
    )
    messages = prompt.messages(
        candidate=told(record) + (f"\n\nYour last analysis was thrown away: {problem}." if problem else ""),
        program=record.training.program or record.proposal.program,
        parent=told(dossier.parent) if dossier.parent is not None else NOTHING,
        grandparent=told(dossier.grandparent) if dossier.grandparent is not None else NOTHING,
        siblings="\n\n".join(told(one) for one in dossier.siblings) or NOTHING,
        root=told(dossier.root) if dossier.root is not None else NOTHING,
        baselines="\n\n".join(told(one) for one in dossier.baselines) or NOTHING,
        measured=results(dossier),
        cognition=cognition or NOTHING,
    )
    return Request(Role.ANALYSE, record.run, record.id, messages, AnalysisAnswer, prompt.version, ordinal=ordinal)


def told(record: pb.Candidate) -> str:
    """A record's numbers as text; what was not measured is left out."""
    training, lines = record.training, [f"{record.proposal.name} ({record.id})"]
    if training.HasField("loss"):
        spread = f" (standard error {training.loss_stderr:.4f})" if training.HasField("loss_stderr") else ""
        seeds = "one seed" if len(training.seeds) == 1 else f"{len(training.seeds)} seeds"
        lines.append(f"loss {training.loss:.4f}{spread} over {seeds}")
    lines += [f"training loss {curve}"] if (curve := _curve(training)) else []
    lines += [f"mean accuracy {training.benchmark:.3f}"] if training.HasField("benchmark") else []
    lines += [f"{task} {value:.3f}" for task, value in task_means(record).items()]
    if (parameters := parameters_of(record)) is not None:
        lines.append(f"{parameters:,} parameters")
    if (speed := speed_of(record)) is not None:
        lines.append(f"{speed:,.0f} tokens per second")
    lines += [f"motivation: {record.proposal.motivation}"] if record.proposal.motivation else []
    return "\n".join(lines)


def _curve(training: pb.Training) -> str:
    """The training loss of the first seed at each quarter of its steps; empty where no curve is known."""
    points = [one for seed in training.seeds[:1] for one in seed.curve if one.HasField("train_loss")]
    if len(points) < 4:
        return ""
    places = [len(points) * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
    return ", ".join(f"{points[place].train_loss:.3f} at step {points[place].step}" for place in places)


def _parts(answer: AnalysisAnswer) -> tuple[str, ...]:
    claims = (lesson.claim for lesson in answer.lessons)
    return answer.design_evaluation, answer.results, answer.expectation, answer.explanation, answer.synthesis, *claims
