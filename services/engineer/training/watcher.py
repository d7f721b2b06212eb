"""Reads the metrics of a training and says when to stop it. Pure: no clock, no IO."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

from services.domain.curves import Curve, behind, forecast
from services.engineer.training.result import Metrics

LEAK_SHARE = 0.25
"""How far below the best peer's loss a training loss stops a run that follows the paper's leakage rule."""


@dataclass(frozen=True)
class Peers:
    """What finished trainings of the same run and scale measured: the yardsticks. None where there are none yet."""

    seconds_per_step: float | None = None
    lowest_loss: float | None = None


@dataclass(frozen=True)
class WatchSettings:
    """When to stop. `slower` is the paper's 2–3 times the peers.

    `leak` stops a training whose loss is that share below the best peer's; without it a low loss is looked at later. On
    a CPU `slower` is about the program's own CPU time, since a busy machine is no fault of its; whatever the machine
    does, `stalled` times the peers is too long.
    `least_loss` is a floor in nats per token that no honest model of text reaches. `patience` is the share of the steps
    without any progress. `stopping` is the rule by which a curve that cannot win is stopped: "quantiles",
    "extrapolation" (at `prune_from` of the steps), or "none".
    """

    slower: float = 3.0
    stalled: float = 12.0
    leak: float | None = None
    least_loss: float = 0.2
    divergence: float = 1.5
    patience: float = 0.4
    memory_bytes: int | None = None
    stopping: str = "none"
    prune_from: float = 0.25


@dataclass(frozen=True)
class Stop:
    """A decision: `reason` is the fact that is published, `rule` its name, `broken` whether the program is at fault."""

    rule: str
    reason: str
    broken: bool


def watch(history: Sequence[Metrics], settings: WatchSettings, peers: Peers, finished: Sequence[Curve]) -> Stop | None:
    """The first rule that the metrics so far (oldest first) break, or None to go on."""
    if not history:
        return None
    return (
        _not_finite(history)
        or _too_low(history, settings, peers)
        or _diverged(history, settings)
        or _too_slow(history, settings, peers)
        or _too_big(history, settings)
        or _no_progress(history, settings)
        or _too_far_behind(history, settings, finished)
    )


def _not_finite(history: Sequence[Metrics]) -> Stop | None:
    last = history[-1]
    if math.isfinite(last.train_loss) and math.isfinite(last.grad_norm):
        return None
    what = "loss" if not math.isfinite(last.train_loss) else "gradient norm"
    return Stop("not-finite", f"The {what} is not finite at step {last.step}.", broken=True)


def _too_low(history: Sequence[Metrics], settings: WatchSettings, peers: Peers) -> Stop | None:
    last = history[-1]
    floor = settings.least_loss
    if peers.lowest_loss is not None and settings.leak is not None:
        floor = max(floor, peers.lowest_loss * (1 - settings.leak))
    if last.train_loss >= floor:
        return None
    text = f"The training loss {last.train_loss:.3f} at step {last.step} is below {floor:.3f}: the target leaks."
    return Stop("leak", text, broken=True)


def _diverged(history: Sequence[Metrics], settings: WatchSettings) -> Stop | None:
    best, last = min(m.train_loss for m in history), history[-1]
    worst_of_recent = min(m.train_loss for m in history[-3:])
    if len(history) < 4 or worst_of_recent <= best * settings.divergence:
        return None
    text = f"The loss rose from {best:.3f} to {last.train_loss:.3f} by step {last.step} and stays there."
    return Stop("divergence", text, broken=True)


def _too_slow(history: Sequence[Metrics], settings: WatchSettings, peers: Peers) -> Stop | None:
    if peers.seconds_per_step is None or len(history) < 3:
        return None
    # The first chunk pays for warming up, and one slow chunk may be the machine's fault.
    pace = median(m.seconds_per_step for m in history[1:])
    busy = median(m.seconds_per_step if m.busy_per_step is None else m.busy_per_step for m in history[1:])
    for seconds, times in ((busy, settings.slower), (pace, settings.stalled)):
        if seconds > times * peers.seconds_per_step:
            text = f"A step takes {seconds:.3f} s, more than {times:g} × the peers' {peers.seconds_per_step:.3f} s."
            return Stop("slow", text, broken=True)
    return None


def _too_big(history: Sequence[Metrics], settings: WatchSettings) -> Stop | None:
    used, limit = history[-1].peak_memory_bytes, settings.memory_bytes
    if used is None or limit is None or used <= limit:
        return None
    text = f"The training uses {used >> 20} MiB, more than the {limit >> 20} MiB of this scale."
    return Stop("memory", text, broken=True)


def _no_progress(history: Sequence[Metrics], settings: WatchSettings) -> Stop | None:
    last = history[-1]
    waited = [m for m in history if m.step > last.step - settings.patience * last.steps]
    before = [m for m in history if m.step <= last.step - settings.patience * last.steps]
    if len(before) < 2 or len(waited) < 4:
        return None
    earlier, later = mean(m.train_loss for m in before[-2:]), mean(m.train_loss for m in waited[-2:])
    if later < earlier * 0.999:
        return None
    text = f"No progress: the loss was {earlier:.3f} at step {before[-1].step} and is {later:.3f} at step {last.step}."
    return Stop("no-progress", text, broken=True)


def _too_far_behind(history: Sequence[Metrics], settings: WatchSettings, peers: Sequence[Curve]) -> Stop | None:
    """The run's own rule of stopping, as `asi-arch stopping` replays it; peers without a final loss were stopped."""
    last = history[-1]
    if settings.stopping == "none" or last.step >= last.steps:
        return None
    curve = Curve(tuple(m.step for m in history), tuple(m.train_loss for m in history), last.steps)
    if settings.stopping == "quantiles":
        found = behind(curve, peers)
        if found is None:
            return None
        return Stop(
            "quantiles",
            f"By {found.fraction:.0%} of the steps the training loss is {found.loss:.3f}, above {found.bar:.3f}, the "
            f"{found.quantile:.0%} quantile of {found.compared} earlier trainings there.",
            broken=False,
        )
    if last.step < settings.prune_from * last.steps:
        return None
    finished = [peer for peer in peers if peer.final is not None]
    told = forecast(finished, curve, settings.prune_from, [peer for peer in peers if peer.final is None])
    if told is None or not told.hopeless():
        return None
    text = (
        f"By {settings.prune_from:.0%} of the steps the final loss is predicted to be {told.predicted:.3f} "
        f"± {told.deviation:.3f}, above the median {told.bar:.3f} of {told.finished} finished trainings."
    )
    return Stop("extrapolation", text, broken=False)
