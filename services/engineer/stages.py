"""Stages: scales with a run's overrides, their corpora and check settings, opened once.

`overrides_for` chooses the width of a promoted candidate so that its parameters match the baseline's.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

import structlog

from services.domain.promotion import matched_width
from services.engineer.checks.host import check, check_thoroughly, stage_settings
from services.engineer.checks.report import CheckReport, CheckSettings
from services.engineer.checks.screen import screen_apart
from services.engineer.data import Corpus, CorpusError, open_corpus, other_corpus
from services.engineer.evaluation.tasks import require_tasks
from services.engineer.scales import AUTO, FP32, Scale, load_scale
from services.engineer.speed import FunctionCosts, measure_costs, measure_precision, measure_speed, with_precision
from services.engineer.training.host import optimise
from services.engineer.training.measurements import missing_device
from services.engineer.training.result import CurvePoint, TrainingFailed
from services.engineer.training.session import Job, Supervision
from services.sandbox import Sandbox, SandboxUnavailable

T = TypeVar("T")
TRIAL_POINTS = 5  # of the curve of a few steps


@dataclass(frozen=True)
class Stage:
    """A scale with its data, ready to train on."""

    scale: Scale
    corpus: Corpus
    settings: CheckSettings  # including the root's number of parameters
    other_text: Corpus | None = None  # text from another source, on which candidates are also scored


class Stages:
    """Opens stages on demand and caches them. Raises ScaleError, CorpusError, EvaluationUnavailable."""

    def __init__(self, sandbox: Sandbox, cache: Path, device: str | None = None, text_seed: str | None = None) -> None:
        """`cache` stores tokenised text, and the secret of the corpora if there is no `text_seed`."""
        self._text_seed = text_seed
        self._sandbox = sandbox
        self._cache = cache
        self._device = {"device": device} if device else {}
        self._results: dict[tuple[object, ...], asyncio.Task[object]] = {}  # of `_once`
        self.unsuited: dict[tuple[str, str], str] = {}  # stage and precision → why this machine is slow in it

    async def open(self, name: str, overrides: Mapping[str, str]) -> Stage:
        """The stage `name` with a run's overrides, opened once."""
        return await self._once(("open", name, *sorted(overrides.items())), lambda: self._open(name, overrides))

    async def with_other_text(self, stage: Stage) -> Stage:
        """The stage with text from another source, if this machine has some."""
        try:
            other = await self._once(
                ("other text", stage.corpus.name), lambda: asyncio.to_thread(other_corpus, stage.corpus)
            )
            return replace(stage, other_text=other)
        except CorpusError as error:
            structlog.get_logger().warning("no_other_text", stage=stage.scale.name, why=str(error))
            return stage

    async def scale(self, name: str, overrides: Mapping[str, str]) -> Scale:
        """The scale, with a decided precision. Raises ScaleError; records a precision unsuited to this machine."""
        scale = load_scale(name, {**overrides, **self._device})
        if missing_device(scale):  # only programs are checked
            return replace(scale, precision=FP32) if scale.precision == AUTO else scale
        if scale.precision == FP32 and scale.device == "cpu":
            return scale
        key = ("speed", scale.device, scale.threads)
        speed = await self._once(key, lambda: measure_precision(self._sandbox, scale))
        if slow := speed.slow(scale.precision):
            advice = "let engineers with bf16 instructions serve this run, or start a new one, which chooses fp32"
            if (name, scale.precision) not in self.unsuited:
                structlog.get_logger().warning("unsuited", stage=name, precision=scale.precision, why=slow)
            self.unsuited[name, scale.precision] = f"{slow}: {advice}"
        return with_precision(scale, speed)

    async def require_gpu(self, scale: Scale) -> None:
        """Raises SandboxUnavailable where jobs cannot use the scale's GPU, for which no program is at fault."""
        if scale.device == "cuda":
            await measure_precision(self._sandbox, scale)

    async def speed(self, stage: Stage, trainings: int) -> float:
        """Measure the tokens per second of each of several concurrent trainings."""
        return await measure_speed(self._sandbox, stage.scale, stage.corpus, trainings)

    async def costs(self, stage: Stage) -> FunctionCosts | None:
        """The costs of fla's functions at the stage's sizes, measured once; None on a GPU or if this fails."""
        scale = stage.scale
        if scale.device == "cuda":
            return None
        sizes = (scale.width, scale.heads, scale.context, scale.micro_batch, scale.precision, scale.threads)
        try:
            return await self._once(("costs", *sizes), lambda: measure_costs(self._sandbox, scale))
        except SandboxUnavailable as error:
            structlog.get_logger().warning("no_costs", stage=scale.name, why=str(error))
            return None

    async def check(self, stage: Stage, program: str, *, exempt_from_cost: bool, thorough: bool) -> CheckReport:
        """Check a program; a thorough check repeats the probes with other random inputs."""
        exempt = (*stage.settings.exempt, "cost") if exempt_from_cost else stage.settings.exempt
        run = check_thoroughly if thorough else check
        return await run(program, self._sandbox, replace(stage.settings, exempt=exempt))

    async def trial(self, stage: Stage, program: str, steps: int, seed: int) -> tuple[CurvePoint, ...]:
        """The training losses of a few steps. Raises TrainingFailed, also for a program that fails the screen."""
        scale = stage.scale
        scale = replace(scale, tokens=steps * scale.tokens_per_step, log_every=max(1, steps // TRIAL_POINTS),
                        evaluations=1, compile=False)  # fmt: skip
        finding = await screen_apart(program, self._sandbox)
        if finding.violated:
            raise TrainingFailed("screen", finding.message, {})
        trained = await optimise(Job(program, seed, scale, stage.corpus), Supervision(), self._sandbox)
        return tuple(trained.session.curve)

    async def _open(self, name: str, overrides: Mapping[str, str]) -> Stage:
        scale = await self.scale(name, overrides)
        await asyncio.to_thread(require_tasks, scale)
        corpus = await asyncio.to_thread(open_corpus, scale, self._cache, self._text_seed)
        settings = await stage_settings(scale, corpus.tokens.vocabulary, self._sandbox)
        return Stage(scale, corpus, settings)

    async def _once(self, key: tuple[object, ...], work: Callable[[], Coroutine[None, None, T]]) -> T:
        """The result of `work`, which runs once for all callers with this key, and again after an exception."""
        if key not in self._results:
            self._results[key] = asyncio.create_task(work())
        try:
            return cast("T", await asyncio.shield(self._results[key]))
        except Exception:
            self._results.pop(key, None)
            raise


NEIGHBOURS = (-1, 0, 1)
CHANNELS_PER_HEAD = 4
"""The step between widths: programs split heads in halves and rotate pairs of channels."""
EXPONENT = 1.5
"""Guess for the growth of parameters with the width, between 1 (embeddings) and 2 (projections)."""


async def overrides_for(
    stages: Stages, name: str, overrides: Mapping[str, str], program: str, target: int
) -> dict[str, str]:
    """The overrides with the width at which the program's parameters are closest to ``target``.

    Three widths are tried besides the stage's. If the program cannot be built, the overrides are unchanged.
    """
    scale = (await stages.open(name, overrides)).scale
    step = scale.heads * CHANNELS_PER_HEAD
    count = await _count_parameters(stages, name, overrides, program)
    if not count:
        return dict(overrides)
    counts, guess = {scale.width: count}, scale.width * (target / count) ** (1 / EXPONENT)
    for neighbour in NEIGHBOURS:
        width = max(step, (round(guess / step) + neighbour) * step)
        if count := await _count_parameters(stages, name, {**overrides, "width": str(width)}, program):
            counts[width] = count
    return {**overrides, "width": str(matched_width(counts, target))}


async def _count_parameters(stages: Stages, name: str, overrides: Mapping[str, str], program: str) -> int | None:
    """Parameters of the whole model; None if the program cannot be built at these sizes."""
    stage = await stages.open(name, overrides)
    return (await stages.check(stage, program, exempt_from_cost=True, thorough=False)).parameters
