"""Judges: the offline rubric, and a language model that applies the same rubric."""

import ast
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from services.archive.scoring import measures_of, program_of
from services.chassis.errors import Rejected
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain.structure import Fingerprint, fingerprint, similarity
from services.domain.syntax import Unreadable, parse, without_docstrings
from services.domain.zoo import baselines
from services.judge.rubric import ANCHOR, MIDDLE, WEIGHTS, Observation, SubScores, combine, judge_offline
from services.llm.port import BudgetExhausted, Mind, Request, Role
from services.llm.prompts import Prompt, load_prompt

OFFLINE_RUBRIC = "offline rubric 2"
UNCALIBRATED = " Not calibrated: Gated DeltaNet is not measured in this run."
INTERFACE_CLASS = "DeltaNet"  # the class name of all published mixers


@dataclass(frozen=True)
class Case:
    """A candidate to judge. `root` may be the candidate itself; `anchor` is Gated DeltaNet, if measured."""

    record: pb.Candidate
    root: pb.Candidate
    anchor: pb.Candidate | None
    relatives: tuple[pb.Candidate, ...]  # earlier baselines, parent and references, for the distance
    baselines: tuple[pb.Candidate, ...]  # known baselines of this stage
    settings: events_pb2.RunSettings


@dataclass(frozen=True)
class Opinion:
    """A judgement: `raw` from 1 to 10, its sub-scores and justification.

    `spread` is the standard deviation over several answers. If `raw` is None, `absent_because` is the reason.
    """

    raw: float | None
    scores: SubScores | None
    justification: str
    judge: str
    spread: float | None = None
    absent_because: str = ""


class Judge(Protocol):
    """Judges cases."""

    async def judge(self, case: Case) -> Opinion:
        """The opinion on a case."""


def root_opinion() -> Opinion:
    """The opinion on a run's root: 5 in all sub-scores, the reference of the scale."""
    text = "The root of the run: 5 by definition, as the reference for all others."
    return Opinion(MIDDLE, SubScores(MIDDLE, MIDDLE, MIDDLE), text, "definition")


class OfflineJudge:
    """The rubric computed from measurements, without a language model."""

    def __init__(self, remark: str = "") -> None:
        """`remark` is appended to each justification."""
        self._remark = remark

    async def judge(self, case: Case) -> Opinion:
        """The opinion computed from measurements; absent if a sub-score cannot be computed."""
        if case.record.id == case.root.id:
            return root_opinion()
        root = observation(case.root, (case.root,))
        anchor = observation(case.anchor, (case.root,)) if case.anchor is not None else None
        judgement = judge_offline(observation(case.record, case.relatives), root, anchor)
        if judgement is None:
            absent = "a sub-score has no measurement to be computed from"
            return Opinion(None, None, "", OFFLINE_RUBRIC, absent_because=absent)
        scores = judgement.scores
        scale = f"calibrated with DeltaNet at {MIDDLE:g} and Gated DeltaNet at {ANCHOR:g}:"
        if not judgement.scaled:
            absent = "is not measured in this run" if case.anchor is None else "does not lead DeltaNet clearly"
            scale = f"not calibrated, since Gated DeltaNet {absent}:"
        text = (
            f"Computed from measurements. Performance {scores.performance:.1f}, innovation {scores.innovation:.1f}, "
            f"complexity and efficiency {scores.complexity:.1f}; weighted {judgement.weighted:.2f}, {scale} "
            f"{judgement.raw:.2f}.{self._remark}"
        )
        return Opinion(judgement.raw, scores, text, OFFLINE_RUBRIC)


class ScoreAnswer(BaseModel):
    """A language model's sub-scores with reasons."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    performance: float = Field(ge=1, le=10)
    performance_reason: str = Field(min_length=3, max_length=1500)
    innovation: float = Field(ge=1, le=10)
    innovation_reason: str = Field(min_length=3, max_length=1500)
    complexity: float = Field(ge=1, le=10)
    complexity_reason: str = Field(min_length=3, max_length=1500)


class ModelJudge:
    """Judges with a language model; the prompt does not contain the names of the candidate and known architectures."""

    def __init__(self, mind: Mind) -> None:
        self._mind = mind

    async def judge(self, case: Case) -> Opinion:
        """The mean of `judge_times` answers, each retried once; absent if none is usable."""
        answers, problem = [], ""
        for index in range(max(1, case.settings.judge_times)):
            answer = await self._ask(case, index)
            if isinstance(answer, str):
                problem = answer
            else:
                answers.append(answer)
        judge = f"{self._mind.name}, {score_prompt().version}"
        if not answers:
            return Opinion(None, None, "", judge, absent_because=f"the judge gave no usable answer: {problem}")
        scores = [SubScores(answer.performance, answer.innovation, answer.complexity) for answer in answers]
        raw = [combine(score) for score in scores]
        mean = SubScores(**{name: fmean(getattr(score, name) for score in scores) for name in WEIGHTS})
        text = " ".join(
            f"{name.capitalize()} {getattr(answers[0], name):g}: {getattr(answers[0], f'{name}_reason')}"
            for name in WEIGHTS
        )
        text += "" if case.anchor or case.record.id == case.root.id else UNCALIBRATED
        return Opinion(fmean(raw), mean, text, judge, stdev(raw) if len(raw) > 1 else None)

    async def _ask(self, case: Case, index: int) -> ScoreAnswer | str:
        """One answer, with one retry; else the reason of the failure."""
        problem = ""
        for attempt in range(2):
            try:
                return (await self._mind.ask(score_request(case, ordinal=2 * index + attempt))).answer
            except BudgetExhausted as exhausted:
                return str(exhausted)
            except Rejected as rejected:
                problem = str(rejected)
        return problem


def score_prompt() -> Prompt:
    return load_prompt("services.judge", "score")


def score_request(case: Case, ordinal: int = 0) -> Request[ScoreAnswer]:
    """The request to the language model, which `asi-arch prompt score` also shows."""
    record, name, prompt = case.record, case.record.proposal.name, score_prompt()
    messages = prompt.messages(
        root=_describe(case.root),
        anchor=_describe(case.anchor) if case.anchor is not None else "Not measured in this run.",
        candidate=_describe(record),
        motivation=textwrap.indent(anonymous_text(record.proposal.motivation, name), "> ", lambda _: True),
        program=anonymous_program(program_of(record), name).replace("```", "'" * 3),  # the end of the quotation
    )
    return Request(Role.SCORE, record.run, record.id, messages, ScoreAnswer, prompt.version, ordinal=ordinal)


def anonymous_text(text: str, name: str) -> str:
    """The text without the candidate's name in any spelling. Longer words that contain the name are not changed."""
    words = _words(name)
    pattern = r"(?<![A-Za-z0-9])" + r"[\s_-]*".join(map(re.escape, words)) + r"(?![a-z0-9])"
    return re.sub(pattern, "Candidate", text, flags=re.IGNORECASE) if words else text


def anonymous_program(program: str, name: str) -> str:
    """The program without docstrings, comments and revealing class names.

    Classes named after the candidate, a known architecture or INTERFACE_CLASS are renamed. A program that does not
    parse is treated as text.
    """
    try:
        tree = without_docstrings(parse(program))
    except Unreadable:
        return anonymous_text(program, name)
    titles = (name, INTERFACE_CLASS, *(baseline.title for baseline in baselines()))
    known = {"".join(_words(title)) for title in titles} - {""}
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    revealing = dict.fromkeys(class_ for class_ in classes if any(word in class_.lower() for word in known))
    renamed = {class_: f"Part{index}" if index else "Candidate" for index, class_ in enumerate(revealing)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.name = renamed.get(node.name, node.name)
        elif isinstance(node, ast.Name):
            node.id = renamed.get(node.id, node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # __all__, quoted annotations
            node.value = renamed.get(node.value, node.value)
    return anonymous_text(ast.unparse(tree), name)


def observation(record: pb.Candidate, relatives: Iterable[pb.Candidate]) -> Observation:
    """Means of a candidate's measurements over its seeds, and its distance to the nearest relative, if it parses."""
    measures, distance = measures_of(record), None
    if own := _fingerprint(program_of(record)):
        others = [_fingerprint(program_of(relative)) for relative in relatives if relative.id != record.id]
        distance = 1.0 - max((similarity(own, other) for other in others if other), default=1.0)
    return Observation(
        loss=measures["loss"],
        benchmark=measures["benchmark"],
        distance=distance,
        parameters=measures["parameters"],
        flops_per_token=measures["flops"],
    )


def _fingerprint(program: str) -> Fingerprint | None:
    try:
        return fingerprint(program)
    except ValueError:
        return None


def _words(name: str) -> list[str]:
    """The words of a name in lower case, the same for "Gated DeltaNet", "gated_delta_net" and "GatedDeltaNet"."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]


def _describe(record: pb.Candidate) -> str:
    training = record.training
    error = f" ± {training.loss_stderr:.4f}" if training.HasField("loss_stderr") else ""
    lines = [f"loss {training.loss:.4f} nats per token{error}" if training.HasField("loss") else "loss not measured"]
    if training.HasField("benchmark"):
        lines.append(f"mean accuracy {training.benchmark:.3f}")
    for seed in training.seeds[:1]:
        for score in seed.scores:
            error = f" ± {score.stderr:.3f}" if score.HasField("stderr") else ""
            chance = f" (guessing: {score.chance:.3f})" if score.HasField("chance") else ""
            lines.append(f"{score.task} {score.value:.3f}{error}{chance}")
        cost = seed.measurements
        lines += [f"{cost.parameters:,} parameters"] if cost.parameters else []
        lines += [f"{cost.flops_per_token:,.0f} FLOPs per token"] if cost.HasField("flops_per_token") else []
    return "\n".join(lines)
