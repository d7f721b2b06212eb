"""A language model that scores by the rubric, asked several times; its spread is recorded, its failure is no number."""

import re
from statistics import fmean, stdev

from pydantic import BaseModel, ConfigDict, Field

from services.chassis.errors import Rejected
from services.contracts import candidate_pb2 as pb
from services.domain.judge_rubric import SubScores, combine
from services.judge.case import Case, program_of
from services.judge.opinion import Opinion
from services.llm.port import BudgetExhausted, Mind, Request, Role
from services.llm.prompts import Prompt, load_prompt

UNCALIBRATED = " Not calibrated: Gated DeltaNet is not measured in this run."


class ScoreAnswer(BaseModel):
    """The three sub-scores with their reasons."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    performance: float = Field(ge=1, le=10)
    performance_reason: str = Field(min_length=3, max_length=1500)
    innovation: float = Field(ge=1, le=10)
    innovation_reason: str = Field(min_length=3, max_length=1500)
    complexity: float = Field(ge=1, le=10)
    complexity_reason: str = Field(min_length=3, max_length=1500)


class ModelJudge:
    """Judges through a mind. The candidate's name is taken out of everything the model sees."""

    def __init__(self, mind: Mind) -> None:
        self._mind = mind

    async def judge(self, case: Case) -> Opinion:
        """As the port says: `judge_times` askings, each retried once, absent when none was usable."""
        answers, problem = [], ""
        for time in range(max(1, case.settings.judge_times)):
            answer = await self._once(case, time)
            if isinstance(answer, str):
                problem = answer
            else:
                answers.append(answer)
        judge = f"{self._mind.name}, {score_prompt().version}"
        if not answers:
            return Opinion(None, None, "", judge, absent_because=f"the judge gave no usable answer: {problem}")
        scores = [SubScores(one.performance, one.innovation, one.complexity) for one in answers]
        raw = [combine(one) for one in scores]
        mean = SubScores(*(fmean(values) for values in zip(*map(_values, scores), strict=True)))
        text = _reasons(answers[0]) + ("" if case.anchor or case.record.id == case.root.id else UNCALIBRATED)
        return Opinion(fmean(raw), mean, text, judge, stdev(raw) if len(raw) > 1 else None)

    async def _once(self, case: Case, time: int) -> ScoreAnswer | str:
        """One asking; a failed one is put once more, then its reason is given."""
        problem = ""
        for repetition in range(2):
            request = score_request(case, ordinal=2 * time + repetition)
            try:
                return (await self._mind.ask(request)).answer
            except BudgetExhausted as exhausted:
                return str(exhausted)
            except Rejected as rejected:
                problem = str(rejected)
        return problem


def score_prompt() -> Prompt:
    """The rubric as it is put to a model."""
    return load_prompt("services.judge", "score")


def score_request(case: Case, ordinal: int = 0) -> Request[ScoreAnswer]:
    """The question that is put, and that `asi-arch prompt score` shows."""
    record, name, prompt = case.record, case.record.proposal.name, score_prompt()
    messages = prompt.messages(
        root=_measured(case.root),
        anchor=_measured(case.anchor) if case.anchor is not None else "Not measured in this run.",
        candidate=_measured(record),
        motivation=anonymous(record.proposal.motivation, name),
        program=anonymous(program_of(record), name),
    )
    return Request(Role.SCORE, record.run, record.id, messages, ScoreAnswer, prompt.version, ordinal=ordinal)


def anonymous(text: str, name: str) -> str:
    """The text without the candidate's name, however its words are joined: Gated DeltaNet, gated_delta_net."""
    letters = [re.escape(letter) for letter in name if letter.isalnum()]
    return re.sub(r"[\s_-]*".join(letters), "Candidate", text, flags=re.IGNORECASE) if letters else text


def _measured(record: pb.Candidate) -> str:
    training = record.training
    error = f" ± {training.loss_stderr:.4f}" if training.HasField("loss_stderr") else ""
    lines = [f"loss {training.loss:.4f} nats per token{error}" if training.HasField("loss") else "loss not measured"]
    if training.HasField("benchmark"):
        lines.append(f"mean accuracy {training.benchmark:.3f}")
    for seed in training.seeds[:1]:
        lines += [_score(one) for one in seed.scores]
        cost = seed.measurements
        lines += [f"{cost.parameters:,} parameters"] if cost.parameters else []
        lines += [f"{cost.flops_per_token:,.0f} FLOPs per token"] if cost.HasField("flops_per_token") else []
        lines += [f"{cost.tokens_per_second:,.0f} tokens per second"] if cost.HasField("tokens_per_second") else []
        lines += [f"{cost.peak_memory_bytes:,} bytes at the peak"] if cost.HasField("peak_memory_bytes") else []
    return "\n".join(lines)


def _score(score: pb.TaskScore) -> str:
    return f"{score.task} {score.value:.3f}" + (f" ± {score.stderr:.3f}" if score.HasField("stderr") else "")


def _values(scores: SubScores) -> tuple[float, float, float]:
    return scores.performance, scores.innovation, scores.complexity


def _reasons(answer: ScoreAnswer) -> str:
    return (
        f"Performance {answer.performance:g}: {answer.performance_reason} Innovation {answer.innovation:g}: "
        f"{answer.innovation_reason} Complexity {answer.complexity:g}: {answer.complexity_reason}"
    )
