"""The estimated cost of a run on the engineers' machine, and settings derived from it."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc.aio

from services.archive.policies import climb_of_run
from services.chassis.errors import NotPossible, SettingsError
from services.chassis.rpc import channel, is_transient
from services.contracts import archive_pb2, checker_pb2, checker_pb2_grpc
from services.contracts import events_pb2 as pb
from services.domain.fitness import INVESTIGATE, leakage_policy
from services.local.plan import Limits, RunOptions, run_settings
from services.local.settings import ClientSettings

PROFILE_SECONDS = 240.0  # opening a stage, which a slow machine under load does in a minute
PRECISION = "precision"
TARGET_SECONDS = 480.0
"""Target duration of a run without explicit settings, excluding the start of services."""
SMALLER = {"tiny": "mini"}
"""The fallback of a scale that would take too long."""
FEWEST, MAX_AT_SMALLER = 3, 11
BUSY_SHARE = 0.3
"""Share of the processors' time from which other work is worth mentioning."""
LIMIT_SECONDS = 570.0
"""The most that such a run may take if every loss is suspiciously low."""
_PER_CANDIDATE, _PER_SUSPICION = 6.0, 25.0
"""CPU seconds at a small scale of one candidate's proposal, checks, verdict and analysis, and of its thorough check."""


@dataclass(frozen=True)
class Estimate:
    """The estimate of a run. `trainings` and the times are None where no budget bounds the number of candidates.

    `most_seconds` are those if every loss of a candidate is suspiciously low, and thus investigated.
    """

    candidates: int | None
    trainings: int | None
    seconds: float | None
    most_seconds: float | None
    gpu_seconds: float | None
    tokens: int | None = None
    money: float | None = None


@dataclass(frozen=True)
class Price:
    """The mean cost of a candidate in earlier runs with the same mind."""

    tokens: float
    money: float


def adapts(options: RunOptions) -> bool:
    """Whether the measured speed determines scale and number of candidates, since no option sets them."""
    return not {"scale", "overrides", "promotion", "policies", *Limits.model_fields} & options.model_fields_set


async def decide_precision(
    client: ClientSettings, settings: pb.RunSettings, patience: float = PROFILE_SECONDS
) -> str | None:
    """Set the precision that an engineer measured to be best, unless it is set; a sentence to show, or None.

    If no engineer answers, each engineer decides for itself, and results of different precision are not compared.
    Raises SettingsError if the engineer refuses the scale or cannot use its text.
    """
    undecided = PRECISION not in settings.scale_overrides
    try:
        profile = await profile_of(client, settings, patience, speed=False)
    except NotPossible as error:
        ranked = "each engineer chooses its precision, and results are ranked only within one precision"
        return f"{ranked}: {error}" if undecided else None
    settings.scale_overrides[PRECISION] = profile.precision  # the one that is set, if there is one
    with contextlib.suppress(NotPossible):  # a download may take longer, and goes on
        await profile_of(client, settings, PROFILE_SECONDS, speed=False, text=True)
    decision = f"training in {profile.precision} (measured on the engineer's machine; --set precision=… to choose)"
    return decision if undecided else None


async def plan_run(
    client: ClientSettings,
    options: RunOptions,
    settings: pb.RunSettings,
    earlier: Sequence[archive_pb2.RunStatus],
    note: Callable[[str], None],
) -> pb.RunSettings:
    """Print the plan and its estimated duration, and return the settings to start with.

    Without explicit options, the number of candidates and the scale follow from the measured speed. Raises
    SettingsError if the engineer refuses the scale.
    """
    try:
        profile = await profile_of(client, settings, PROFILE_SECONDS, speed=True)
    except NotPossible as error:
        note(f"the duration of this run is unknown: {error}")
        return settings
    note(speed_sentence(settings.scale, profile))
    settings = _copy(settings, precision=profile.precision)
    if adapts(options):
        settings, profile = await _adapted(client, options, settings, profile, note)
    note(sentence(settings, estimate(settings, profile, price_of(settings.mind, earlier))))
    return settings


async def _adapted(
    client: ClientSettings, options: RunOptions, settings: pb.RunSettings, profile: checker_pb2.MachineProfile,
    note: Callable[[str], None],
) -> tuple[pb.RunSettings, checker_pb2.MachineProfile]:  # fmt: skip
    """As many candidates as fit into TARGET_SECONDS, at a smaller scale where too few do; and the scale's profile."""
    fitting = most_candidates(settings, profile, settings.budget.candidates)
    smaller = SMALLER.get(settings.scale)
    if fitting is None and smaller is not None:
        too_long = estimate(_copy(settings, candidates=FEWEST), profile)
        settings = run_settings(options.model_copy(update={"scale": smaller, "candidates": MAX_AT_SMALLER}))
        with contextlib.suppress(NotPossible):
            profile = await profile_of(client, settings, PROFILE_SECONDS, speed=True)
        note(
            f"scale {smaller} instead of {options.scale}, where {FEWEST} candidates would take up to "
            f"{duration_text(too_long.most_seconds or 0)}: losses of the two cannot be "
            f"compared; --scale {options.scale} uses it nevertheless"
        )
        note(speed_sentence(smaller, profile))
        settings = _copy(settings, precision=profile.precision)
        fitting = most_candidates(settings, profile, MAX_AT_SMALLER)
    return _copy(settings, candidates=fitting or FEWEST), profile


class DeviceMissing(NotPossible):
    """The engineer's machine has not the device of a scale."""


async def require_devices(client: ClientSettings, settings: pb.RunSettings) -> list[str]:
    """Why the engineer is slow in the precision of a stage, if so. Raises SettingsError without a stage's device."""
    warnings: dict[str, None] = {}
    promoted = (
        pb.RunSettings(scale=stage.scale, scale_overrides=dict(stage.overrides))
        for stage in climb_of_run(settings).stages
    )
    for stage in (settings, *promoted):
        try:
            profile = await profile_of(client, stage, PROFILE_SECONDS, speed=False)
        except DeviceMissing as missing:
            raise SettingsError(
                f"{missing}. For engineers on other machines, set ASI_NATS_URL to their broker."
            ) from None
        except NotPossible:  # it does not answer: the run waits for it
            break
        if profile.unsuited:
            warnings[profile.unsuited] = None
    return list(warnings)


async def profile_of(
    client: ClientSettings, settings: pb.RunSettings, patience: float, *, speed: bool, text: bool = False
) -> checker_pb2.MachineProfile:
    """An engineer's measurements of the run's scale.

    With `text` it also opens the scale's text. Raises SettingsError if it refuses one of them, DeviceMissing if it
    cannot train the scale, and NotPossible if none answers.
    """
    request = checker_pb2.ScaleRequest(
        stage=settings.scale, scale_overrides=settings.scale_overrides, speed=speed, text=text
    )
    async with channel(client.checker_address, client) as connection:
        try:
            return await checker_pb2_grpc.CheckerStub(connection).Profile(request, timeout=patience)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                raise SettingsError(f"the engineer cannot use scale {settings.scale}: {error.details()}") from None
            if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
                raise DeviceMissing(error.details()) from None
            if is_transient(error):
                raise NotPossible("no engineer answers yet") from None
            raise NotPossible(f"the engineer answers with an error: {error.details()}") from None


def estimate(settings: pb.RunSettings, profile: checker_pb2.MachineProfile, price: Price | None = None) -> Estimate:
    """The estimate of a run with its baselines and as many candidates as its budgets allow."""
    candidates = _affordable(settings, profile, price)
    if candidates is None:
        return Estimate(None, None, None, None, None)
    trainings = _fixed_trainings(settings) + candidates * settings.candidate_seeds
    on_gpu = profile.device == "cuda"
    return Estimate(
        candidates,
        trainings,
        _seconds(settings, profile, candidates),
        _seconds(settings, profile, candidates, investigated=candidates),
        trainings * profile.seconds if on_gpu else None,
        None if price is None else round(candidates * price.tokens),
        None if price is None else candidates * price.money,
    )


def most_candidates(settings: pb.RunSettings, profile: checker_pb2.MachineProfile, maximum: int) -> int | None:
    """The largest number of candidates, at least three, that fit into TARGET_SECONDS; None if three do not fit.

    If all their losses are suspiciously low, they still fit into LIMIT_SECONDS.
    """

    def fits(count: int) -> bool:
        most = _seconds(settings, profile, count, investigated=count)
        return _seconds(settings, profile, count) <= TARGET_SECONDS and most <= LIMIT_SECONDS

    return next(filter(fits, range(maximum, FEWEST - 1, -1)), None)


def price_of(mind: str, earlier: Sequence[archive_pb2.RunStatus]) -> Price | None:
    """The mean over candidates of this archive's runs with the same mind; None if no model was called yet."""
    runs = [run for run in earlier if run.settings.mind == mind and run.spent.tokens]
    ended = sum(run.states.get("archived", 0) + run.states.get("rejected", 0) for run in runs)
    if not ended:
        return None
    return Price(sum(run.spent.tokens for run in runs) / ended, sum(run.spent.money for run in runs) / ended)


def speed_sentence(scale: str, profile: checker_pb2.MachineProfile) -> str:
    """The training speed of the machine, in words."""
    at_once = "one at a time" if profile.trainings == 1 else f"{profile.trainings} side by side"
    return (
        f"one training at scale {scale} takes about {duration_text(profile.seconds)} here: "
        f"{profile.tokens_per_second:,.0f} tokens/s each, {at_once}, in {profile.precision}"
    )


def busy_sentence(idle: int, total: int) -> str | None:
    """What the processors' time just before a run says of its estimate; None on a machine that is mostly idle."""
    if not total or idle / total > 1 - BUSY_SHARE:
        return None
    return (
        f"other work takes {1 - idle / total:.0%} of this machine's processor time: the estimate holds only while that "
        "stays the same"
    )


def sentence(settings: pb.RunSettings, run: Estimate) -> str:
    """The plan, the estimate and the limits of the run."""
    if run.trainings is None or run.seconds is None:
        return "no budget bounds this run: it continues until it is stopped"
    seeds = f" of {settings.candidate_seeds} seeds" if settings.candidate_seeds > 1 else ""
    given = sum(program.name not in settings.baselines for program in settings.programs)
    numbers = {"baseline": len(settings.baselines), "seed program": given or None, "candidate": run.candidates}
    counts = ", ".join(f"{count} {noun}{'s' * (count != 1)}" for noun, count in numbers.items() if count is not None)
    text = f"{run.trainings} trainings ({counts}{seeds}), about {duration_text(run.seconds)}"
    if settings.promotion not in ("", "none"):
        text += " and second trainings of promoted candidates"
    if run.gpu_seconds is not None:
        text += f", {run.gpu_seconds / 3600:.2g} GPU-hours"
    if run.most_seconds is not None and (most := duration_text(run.most_seconds)) != duration_text(run.seconds):
        text += f", up to {most} if all losses are suspiciously low, and so trained again"
    if run.tokens is not None and run.money is not None:
        text += f", {run.tokens:,} language-model tokens for {run.money:.2f} $ by the cost of earlier runs"
    elif settings.mind not in ("", "offline"):
        text += "; no earlier run of this archive gives the price of its language model"
    limits = _limits(settings.budget)
    return f"{text}; the budget ends it at {limits}" if limits else text


def duration_text(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _copy(settings: pb.RunSettings, precision: str | None = None, candidates: int | None = None) -> pb.RunSettings:
    copy = pb.RunSettings()
    copy.CopyFrom(settings)
    if precision is not None:
        copy.scale_overrides[PRECISION] = precision
    if candidates is not None:
        copy.budget.candidates = candidates
    return copy


def _fixed_trainings(settings: pb.RunSettings) -> int:
    """The number of trainings of baselines and seed programs."""
    seeds = sum(program.name not in settings.baselines for program in settings.programs)
    return len(settings.baselines) * settings.baseline_seeds + seeds * settings.candidate_seeds


def _seconds(
    settings: pb.RunSettings, profile: checker_pb2.MachineProfile, candidates: int, investigated: int = 0
) -> float:
    """Wall-clock time: trainings run in parallel, proposals after the baselines; both last groups may be smaller.

    An investigation checks a candidate thoroughly and trains it again, and once the root.
    """
    concurrent = max(1, min(profile.trainings, settings.seats * settings.candidate_seeds))
    if leakage_policy(settings.policies.leakage) != INVESTIGATE:
        investigated = 0
    repeated = investigated + min(1, investigated)
    trainings = (_fixed_trainings(settings), candidates * settings.candidate_seeds + repeated)
    groups = sum(math.ceil(count / concurrent) for count in trainings)
    work = candidates * _PER_CANDIDATE + investigated * _PER_SUSPICION
    return groups * profile.seconds + work / concurrent


def _affordable(settings: pb.RunSettings, profile: checker_pb2.MachineProfile, price: Price | None) -> int | None:
    """The number of candidates within all budgets; None if unlimited."""
    budget, counts = settings.budget, list[int]()
    if budget.HasField("candidates"):
        counts.append(budget.candidates)
    if budget.HasField("seconds"):
        thousand = _seconds(settings, profile, 1001) - _seconds(settings, profile, 1)  # a single one hardly counts
        counts.append(int((budget.seconds - _seconds(settings, profile, 0)) / (thousand / 1000)))
    if budget.HasField("gpu_seconds") and profile.device == "cuda":
        left = budget.gpu_seconds - _fixed_trainings(settings) * profile.seconds
        counts.append(int(left / (profile.seconds * settings.candidate_seeds)))
    if price is not None and budget.HasField("tokens") and price.tokens:
        counts.append(int(budget.tokens / price.tokens))
    if price is not None and budget.HasField("money") and price.money:
        counts.append(int(budget.money / price.money))
    return max(0, min(counts)) if counts else None


def _limits(budget: pb.Budget) -> str:
    """The budgets other than candidates, in words."""
    texts = {
        "seconds": duration_text(budget.seconds),
        "gpu_seconds": f"{budget.gpu_seconds / 3600:.3g} GPU-hours",
        "tokens": f"{budget.tokens:,} tokens",
        "money": f"{budget.money:.2f} $",
    }
    return ", ".join(text for name, text in texts.items() if budget.HasField(name))  # type: ignore[arg-type]
