"""A language model that writes the five parts. What cites a number that the record does not hold is not taken."""

from collections.abc import Iterator

from google.protobuf.message import Message as ProtobufMessage
from pydantic import BaseModel, ConfigDict, Field

from services.analyst.dossier import Dossier
from services.analyst.numbers import invented
from services.analyst.offline.analyst import OfflineAnalyst, components_of, hits_of
from services.chassis.errors import Rejected
from services.chassis.llm.port import Mind, Request, Role
from services.chassis.llm.prompts import load_prompt
from services.contracts import candidate_pb2 as pb
from services.domain.components import VOCABULARY

TRIES = 2
NOTHING = "None."


class IdeaAnswer(BaseModel):
    """One idea and where it came from."""

    model_config = ConfigDict(extra="ignore")
    text: str = Field(min_length=3, max_length=600)
    origin: str = Field(pattern="^(cognition|analysis|original)$")
    source: str = ""


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


class ModelAnalyst:
    """Analyses through a mind; falls back on the comparison of numbers, and says so, when the model invents some."""

    def __init__(self, mind: Mind, offline: OfflineAnalyst) -> None:
        self._mind = mind
        self._offline = offline
        self._prompt = load_prompt("services.analyst", "analyse")

    async def analyse(self, dossier: Dossier) -> pb.Analysis:
        """As the port says. Raises Transient while no model answers."""
        known = [*numbers_of(dossier)]
        problem = ""
        for ordinal in range(TRIES):
            try:
                answer = (await self._mind.ask(self.request(dossier, problem, ordinal))).answer
            except Rejected as rejected:
                problem = str(rejected)
                break
            wrong = invented(" ".join(_parts(answer)), known)
            if not wrong:
                return self._analysis(answer, dossier)
            problem = f"it cited {', '.join(wrong[:5])}, which the record does not hold"
        analysis = await self._offline.analyse(dossier)
        analysis.analyst = f"{analysis.analyst}, after {self._mind.name} was not usable: {problem}"
        return analysis

    def request(self, dossier: Dossier, problem: str = "", ordinal: int = 0) -> Request[AnalysisAnswer]:
        """The question that is put, for `asi-arch prompt` too."""
        record = dossier.record
        cognition = "\n".join(
            f"[{hit.knowledge.id}] {hit.knowledge.paper.title}: {hit.knowledge.entry.design_insight}"
            for hit in dossier.hits
        )
        messages = self._prompt.messages(
            candidate=told(record) + (f"\n\nYour last analysis was thrown away: {problem}." if problem else ""),
            program=record.training.program or record.proposal.program,
            parent=told(dossier.parent) if dossier.parent is not None else NOTHING,
            grandparent=told(dossier.grandparent) if dossier.grandparent is not None else NOTHING,
            siblings="\n\n".join(told(one) for one in dossier.siblings) or NOTHING,
            root=told(dossier.root) if dossier.root is not None else NOTHING,
            cognition=cognition or NOTHING,
        )
        return Request(
            Role.ANALYSE, record.run, record.id, messages, AnalysisAnswer, self._prompt.version, ordinal=ordinal
        )

    def _analysis(self, answer: AnalysisAnswer, dossier: Dossier) -> pb.Analysis:
        named = [VOCABULARY.normalise(tag) for tag in answer.components if tag in VOCABULARY]
        return pb.Analysis(
            design_evaluation=answer.design_evaluation,
            results=answer.results,
            expectation=answer.expectation,
            explanation=answer.explanation,
            synthesis=answer.synthesis,
            components=list(dict.fromkeys(named)) or components_of(dossier.record),
            ideas=[pb.Idea(text=one.text, origin=one.origin, source=one.source) for one in answer.ideas],
            cognition=hits_of(dossier),
            analyst=f"{self._mind.name}, {self._prompt.version}",
        )


def told(record: pb.Candidate) -> str:
    """A record's numbers as text."""
    training, lines = record.training, [f"{record.proposal.name} ({record.id})"]
    if training.HasField("loss"):
        spread = f" (standard error {training.loss_stderr:.4f})" if training.HasField("loss_stderr") else ""
        lines.append(f"loss {training.loss:.4f}{spread}")
    lines += [f"mean accuracy {training.benchmark:.3f}"] if training.HasField("benchmark") else []
    for seed in training.seeds[:1]:
        lines += [f"{one.task} {one.value:.3f} ± {one.stderr:.3f}" for one in seed.scores]
        lines.append(f"{seed.measurements.parameters:,} parameters")
        if seed.measurements.HasField("tokens_per_second"):
            lines.append(f"{seed.measurements.tokens_per_second:,.0f} tokens per second")
    lines += [f"motivation: {record.proposal.motivation}"] if record.proposal.motivation else []
    return "\n".join(lines)


def numbers_of(dossier: Dossier) -> Iterator[float]:
    """Every number that an analysis may cite, the most cited first."""
    records = [dossier.record, dossier.parent, dossier.root, dossier.grandparent, *dossier.siblings]
    for record in records:
        if record is not None:
            yield from _of_training(record.training)
            yield from _numbers(record.verdict)


def _of_training(training: pb.Training) -> Iterator[float]:
    for name in ("loss", "benchmark", "loss_stderr", "benchmark_stderr"):
        if training.HasField(name):
            yield float(getattr(training, name))
    for seed in training.seeds:
        yield from (seed.loss, seed.bits_per_byte)
        for score in seed.scores:
            yield from (score.value, score.stderr)
        yield from _numbers(seed.measurements)
        yield from (value for point in seed.curve for value in (point.train_loss, point.loss) if value)


def _numbers(message: ProtobufMessage) -> Iterator[float]:
    for _, value in message.ListFields():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield float(value)
        elif isinstance(value, ProtobufMessage):
            yield from _numbers(value)


def _parts(answer: AnalysisAnswer) -> tuple[str, ...]:
    return answer.design_evaluation, answer.results, answer.expectation, answer.explanation, answer.synthesis
