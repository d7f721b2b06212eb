"""Analyses by a language model; those that cite numbers which the record does not contain are refused."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal

from google.protobuf.message import Message as ProtobufMessage
from pydantic import BaseModel, ConfigDict, Field

from services.analyst.comparison import Dossier, flops_of, loss_difference, parameters_of, results, task_changes
from services.analyst.offline_analyst import OfflineAnalyst, components_of, hits_of
from services.archive.scoring import program_of, stopped_early, task_means
from services.chassis.errors import Rejected
from services.contracts import candidate_pb2 as pb
from services.domain.components import VOCABULARY
from services.llm.port import Mind, Request, Role
from services.llm.prompts import Prompt, load_prompt

SMALL = 12  # "two heads", "six tasks"
YEARS = range(1950, 2101)

_ARXIV = re.compile(r"(?<![\w.])\d{2}(?:0[1-9]|1[0-2])\.\d{4,5}(?:v\d+)?(?![\d.]*\d)")
_NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?:\.(?P<decimals>\d+))?(?:[eE](?P<exponent>[-+]?\d+))?"
    r"(?P<unit>\s?%|\s?(?:per\s?cent|percentage points?|points?|pp)\b|\s?(?:k|M|B)\b|\s(?:thousand|million|billion)\b)?"
)
_FACTORS = {"k": 1e3, "thousand": 1e3, "M": 1e6, "million": 1e6, "B": 1e9, "billion": 1e9}


@dataclass(frozen=True)
class Citable:
    """The numbers that may be cited.

    `quantities`: the values of one quantity each, the candidate's first, then its relatives'; differences of the first
    two (candidate and parent) from all others may be cited, too. `literals`: numbers in texts of the record.
    """

    quantities: tuple[tuple[float, ...], ...]
    literals: frozenset[float] = frozenset()

    @cached_property
    def values(self) -> tuple[float, ...]:
        """All numbers that may be cited, without signs."""
        return tuple({abs(value) for quantity in self.quantities for value in _derived(quantity)} | self.literals)


@dataclass(frozen=True)
class Citation:
    """A number as written, its absolute value, and half a unit of its last digit."""

    written: str
    value: float
    tolerance: float
    percent: bool
    bare: bool  # a whole number without a unit


def invented(text: str, citable: Citable) -> list[str]:
    """The numbers of the text that the record does not contain, as written."""
    return [citation.written for citation in citations(text) if not _allowed(citation, citable)]


def citations(text: str) -> Iterator[Citation]:
    """All numbers of a text except arXiv ids."""
    yield from map(_citation, _NUMBER.finditer(_ARXIV.sub(" ", text)))


def numerals(texts: Iterable[str]) -> frozenset[float]:
    """The numbers of texts; percentages also as shares."""
    cited = [citation for text in texts for citation in citations(text)]
    return frozenset(c.value for c in cited) | {c.value / 100 for c in cited if c.percent}


def _citation(match: re.Match[str]) -> Citation:
    integer, decimals = match["whole"].replace(",", ""), match["decimals"] or ""
    unit = (match["unit"] or "").strip()
    scale = 10.0 ** int(match["exponent"] or 0) * _FACTORS.get(unit, 1.0)
    value = float(f"{integer}.{decimals or 0}") * scale
    # Trailing zeros may be due to rounding: 16,000 may be 16,117; two digits are always exact.
    zeros = max(0, min(len(integer) - len(integer.rstrip("0")), len(integer) - 2)) if len(integer) > 3 else 0
    last = -len(decimals) if decimals else zeros
    bare = not (decimals or unit or match["exponent"])
    return Citation(match.group().strip(), value, 0.5 * 10.0**last * scale, bool(unit) and unit not in _FACTORS, bare)


def _allowed(citation: Citation, citable: Citable) -> bool:
    if citation.bare and (citation.value <= SMALL or citation.value in YEARS):
        return True
    factor = 100.0 if citation.percent else 1.0
    slack = citation.tolerance + 1e-9 * max(1.0, citation.value)
    return any(abs(value * factor - citation.value) <= slack for value in citable.values) or (
        citation.percent and citation.value in citable.literals
    )


def _derived(quantity: tuple[float, ...]) -> Iterator[float]:
    yield from quantity
    for index, value in enumerate(quantity[:2]):
        for other in quantity[index + 1 :]:
            yield value - other
            for above, below in ((value, other), (other, value)):
                if below:
                    yield above / below
                    yield (above - below) / below


LOSS_DIGITS, OTHER_DIGITS = 4, 3  # as shown to the model, which computes with them


def citable_of(dossier: Dossier, shown: Iterable[str] = ()) -> Citable:
    """The numbers of the dossier and of the texts `shown` to the model."""
    rows: dict[str, list[float]] = {}
    for record in dossier.all_records:
        for name, value in quantities(record):
            rows.setdefault(name, []).append(value)
    rounded = [
        tuple(round(value, LOSS_DIGITS if name.startswith("loss") else OTHER_DIGITS) for value in values)
        for name, values in rows.items()
    ]
    exact = [tuple(values) for values in rows.values()]
    errors = [(value,) for value in _errors(dossier)]
    pairs = [pair for record in dossier.all_records for pair in combinations(_quarters(record.training), 2)]
    falls = [(round(before.train_loss, 3), round(after.train_loss, 3)) for before, after in pairs]
    return Citable((*exact, *rounded, *errors, *falls), numerals(shown))


def quantities(record: pb.Candidate) -> Iterator[tuple[str, float]]:
    """The measured quantities of a candidate by name: means over seeds, then values of each seed."""
    training = record.training
    for name in ("loss", "loss_stderr", "benchmark", "benchmark_stderr"):
        if training.HasField(name):
            yield name, float(getattr(training, name))
    yield from ((f"task {task}", value) for task, value in task_means(record).items())
    if (parameters := parameters_of(record)) is not None:
        yield "parameters", float(parameters)
    if (flops := flops_of(record)) is not None:
        yield "FLOPs per token", flops
    for point, quarter in zip(_quarters(training), (1, 2, 3, 4), strict=False):
        yield f"training loss after quarter {quarter}", point.train_loss
    for seed in training.seeds:
        yield from _of_seed(seed)
    yield from _of_message("verdict", record.verdict)


def _of_seed(seed: pb.SeedResult) -> Iterator[tuple[str, float]]:
    yield "loss of a seed", seed.loss
    if seed.bits_per_byte:
        yield "bits per byte", seed.bits_per_byte
    if seed.HasField("loss_stderr"):
        yield "loss_stderr of a seed", seed.loss_stderr
    yield from ((f"{part.part} part of the loss", part.loss) for part in seed.part_losses)
    for score in seed.scores:
        yield f"{score.task} of a seed", score.value
        if score.HasField("stderr"):
            yield f"stderr of {score.task}", score.stderr
        if score.HasField("chance"):
            yield f"guessing at {score.task}", score.chance
    yield from _of_message("measured", seed.measurements)


def _of_message(prefix: str, message: ProtobufMessage) -> Iterator[tuple[str, float]]:
    """Every number of a message, by the name of its field."""
    for field, value in message.ListFields():
        name = f"{prefix} {field.name}"
        if isinstance(value, ProtobufMessage):
            yield from _of_message(name, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def _errors(dossier: Dossier) -> Iterator[float]:
    """Standard errors of the differences from other records."""
    for other in dossier.all_records[1:]:
        differences = [loss_difference(dossier.record, other, dossier.between_seeds)]
        differences += [change.difference for change in task_changes(dossier.record, other)]
        yield from (
            difference.stderr for difference in differences if difference is not None and difference.stderr is not None
        )


TRIES = 2
NOTHING = "None."


class IdeaAnswer(BaseModel):
    """An idea and its origin."""

    model_config = ConfigDict(extra="ignore")
    text: str = Field(min_length=3, max_length=600)
    origin: str = Field(pattern="^(cognition|analysis|original)$")
    source: str = ""


class LessonAnswer(BaseModel):
    """A claim about one component, for later proposals."""

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
    """Analyses by a mind; falls back on the offline analysis, which names the reason, if its answers are unusable."""

    def __init__(self, mind: Mind, offline: OfflineAnalyst) -> None:
        self._mind = mind
        self._offline = offline

    async def analyse(self, dossier: Dossier) -> pb.Analysis:
        """See the protocol. Raises Transient while no model answers."""
        problem = ""
        for ordinal in range(TRIES):
            try:
                question = analyse_request(dossier, problem, ordinal)
                answer = (await self._mind.ask(question)).answer
            except Rejected as rejected:
                problem = str(rejected)
                break
            citable = citable_of(dossier, (message.text for message in analyse_request(dossier).messages))
            parts = (answer.design_evaluation, answer.results, answer.expectation, answer.explanation, answer.synthesis)
            numbers = invented(" ".join((*parts, *(lesson.claim for lesson in answer.lessons))), citable)
            if not numbers:
                return self._analysis(answer, dossier)
            problem = f"it cited {', '.join(numbers[:5])}, which the record does not hold"
        analysis = await self._offline.analyse(dossier)
        analysis.analyst = f"{analysis.analyst}, after {self._mind.name} was not usable: {problem}"
        return analysis

    def _analysis(self, answer: AnalysisAnswer, dossier: Dossier) -> pb.Analysis:
        return pb.Analysis(
            **answer.model_dump(exclude={"components", "lessons"}),  # the five parts and the ideas
            components=VOCABULARY.tags(answer.components) or components_of(dossier.record),
            lessons=[
                pb.Lesson(component=VOCABULARY.tag(lesson.component), effect=lesson.effect, claim=lesson.claim)
                for lesson in answer.lessons
            ],
            cognition=hits_of(dossier),
            analyst=f"{self._mind.name}, {analyse_prompt().version}",
        )


def analyse_prompt() -> Prompt:
    return load_prompt("services.analyst", "analyse")


def analyse_request(dossier: Dossier, problem: str = "", ordinal: int = 0) -> Request[AnalysisAnswer]:
    """The request, also for `asi-arch prompt analyse`; `problem` is that of the last answer."""
    record, prompt = dossier.record, analyse_prompt()
    cognition = "\n".join(
        f"[{hit.knowledge.id}] {hit.knowledge.paper.title}: {hit.knowledge.entry.design_insight}"
        for hit in dossier.hits
    )
    messages = prompt.messages(
        candidate=description_of(record, parts=True)
        + (f"\n\nYour last analysis was thrown away: {problem}." if problem else ""),
        program=program_of(record),
        parent=description_of(dossier.parent, parts=True) if dossier.parent is not None else NOTHING,
        grandparent=description_of(dossier.grandparent) if dossier.grandparent is not None else NOTHING,
        siblings="\n\n".join(
            description_of(sibling) for sibling in dossier.siblings if sibling.training.HasField("loss")
        )
        or NOTHING,
        root=description_of(dossier.root) if dossier.root is not None else NOTHING,
        baselines="\n\n".join(description_of(baseline) for baseline in dossier.baselines) or NOTHING,
        best=_best(dossier),
        measured=results(dossier),
        cognition=cognition or NOTHING,
    )
    return Request(Role.ANALYSE, record.run, record.id, messages, AnalysisAnswer, prompt.version, ordinal=ordinal)


def _best(dossier: Dossier) -> str:
    """The candidate with the lowest loss, in full unless it is shown elsewhere."""
    best = dossier.best
    if best is None or best.id == dossier.record.id:
        return NOTHING if best is None else "The candidate itself."
    above = (dossier.parent, dossier.grandparent, dossier.root, *dossier.siblings, *dossier.baselines)
    shown = any(other is not None and other.id == best.id for other in above)
    return f"{best.proposal.name} ({best.id}), shown above." if shown else description_of(best)


def description_of(record: pb.Candidate, parts: bool = False) -> str:
    """A record's measurements as text, without unmeasured ones; with `parts` also the loss by position and kind of
    token, of the first seed."""
    training, lines = record.training, [f"{record.proposal.name} ({record.id})"]
    if training.HasField("loss"):
        spread = f" (standard error {training.loss_stderr:.4f})" if training.HasField("loss_stderr") else ""
        seeds = "one seed" if len(training.seeds) == 1 else f"{len(training.seeds)} seeds"
        stopped = ", stopped early" if stopped_early(record) else ""
        lines.append(f"loss {training.loss:.4f}{spread} over {seeds}{stopped}")
    curve = ", ".join(f"{point.train_loss:.3f} at step {point.step}" for point in _quarters(training))
    lines += [f"training loss {curve}"] if curve else []
    by_part = ", ".join(f"{part.part} {part.loss:.3f}" for seed in training.seeds[:1] for part in seed.part_losses)
    lines += [f"loss by part: {by_part}"] if parts and by_part else []
    lines += [f"mean accuracy {training.benchmark:.3f}"] if training.HasField("benchmark") else []
    lines += [f"{task} {value:.3f}" for task, value in task_means(record).items()]
    if (parameters := parameters_of(record)) is not None:
        lines.append(f"{parameters:,} parameters")
    if (flops := flops_of(record)) is not None:
        lines.append(f"{flops:,.0f} FLOPs per token")
    lines += [f"components: {', '.join(record.proposal.components)}"] if record.proposal.components else []
    lines += [f"motivation: {record.proposal.motivation}"] if record.proposal.motivation else []
    lines += [f"its program was repaired in training: {revision.repair}" for revision in training.revisions]
    return "\n".join(lines)


def _quarters(training: pb.Training) -> list[pb.CurvePoint]:
    """The points of the first seed's curve at each quarter of its steps; empty for fewer than four points."""
    points = [point for seed in training.seeds[:1] for point in seed.curve if point.HasField("train_loss")]
    return [points[len(points) * quarter // 4 - 1] for quarter in (1, 2, 3, 4)] if len(points) >= 4 else []
