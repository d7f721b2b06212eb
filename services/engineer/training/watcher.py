"""Decides from the metrics of a training when to stop it, without clock or IO."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

from services.domain.curves import Curve, behind, forecast
from services.engineer.training.result import Metrics

LEAK_SHARE = 0.25
"""The paper's leakage rule: a training stops when its loss is below the best peer's by this share."""
SLOWER, STALLED = 3.0, 12.0
"""Limits on a step's time in multiples of the peers': of CPU time (on a CPU, as the machine may be busy; the paper uses
2–3), and of wall-clock time in which no other work had the processor."""
LEAST_LOSS = 0.2  # nats per token that honest models of text do not reach
DIVERGENCE = 1.5
PATIENCE = 0.4  # share of the steps without progress


@dataclass(frozen=True)
class Peers:
    """Reference values from finished trainings of the same run and scale. None if there are none yet."""

    seconds_per_step: float | None = None
    lowest_loss: float | None = None


@dataclass(frozen=True)
class WatchSettings:
    """The rules of a run.

    `leak` stops a training whose loss is below the best peer's by this share. `stopping` is the rule for curves that
    cannot win: "quantiles", "extrapolation" (from the share `prune_from` of the steps on), or "none".
    """

    leak: float | None = None
    memory_bytes: int | None = None
    stopping: str = "none"
    prune_from: float = 0.25


@dataclass(frozen=True)
class Stop:
    """A decision to stop: its rule, the published reason, and whether the program is at fault (`broken`)."""

    rule: str
    reason: str
    broken: bool


def watch(history: Sequence[Metrics], settings: WatchSettings, peers: Peers, finished: Sequence[Curve]) -> Stop | None:
    """The first rule that the metrics (oldest first) violate, or None."""
    if not history:
        return None
    return (
        _not_finite(history)
        or _too_low(history, settings, peers)
        or _diverged(history)
        or _too_slow(history, peers)
        or _too_big(history, settings)
        or _no_progress(history)
        or _too_far_behind(history, settings, finished)
    )


def _not_finite(history: Sequence[Metrics]) -> Stop | None:
    last = history[-1]
    if math.isfinite(last.train_loss) and math.isfinite(last.grad_norm):
        return None
    what = "loss" if not math.isfinite(last.train_loss) else "gradient norm"
    return Stop("not-finite", f"The {what} is not finite at step {last.step}.", broken=True)


def _too_low(history: Sequence[Metrics], settings: WatchSettings, peers: Peers) -> Stop | None:
    last, floor = history[-1], LEAST_LOSS
    if peers.lowest_loss is not None and settings.leak is not None:
        floor = max(floor, peers.lowest_loss * (1 - settings.leak))
    if last.train_loss >= floor:
        return None
    text = f"The training loss {last.train_loss:.3f} at step {last.step} is below {floor:.3f}: the target leaks."
    return Stop("leak", text, broken=True)


def _diverged(history: Sequence[Metrics]) -> Stop | None:
    best, last = min(m.train_loss for m in history), history[-1]
    recent_best = min(m.train_loss for m in history[-3:])
    if len(history) < 4 or recent_best <= best * DIVERGENCE:
        return None
    text = f"The loss rose from {best:.3f} to {last.train_loss:.3f} by step {last.step} and stays there."
    return Stop("divergence", text, broken=True)


def _too_slow(history: Sequence[Metrics], peers: Peers) -> Stop | None:
    if peers.seconds_per_step is None or len(history) < 3:
        return None
    # The first chunk includes warm-up, and single chunks may be slow because of other work.
    wall = median(m.seconds_per_step - m.waited_per_step for m in history[1:])
    busy = median(m.seconds_per_step if m.busy_per_step is None else m.busy_per_step for m in history[1:])
    for seconds, factor in ((busy, SLOWER), (wall, STALLED)):
        if seconds > factor * peers.seconds_per_step:
            text = f"A step takes {seconds:.3f} s, more than {factor:g} × the peers' {peers.seconds_per_step:.3f} s."
            return Stop("slow", text, broken=True)
    return None


def _too_big(history: Sequence[Metrics], settings: WatchSettings) -> Stop | None:
    used, limit = history[-1].peak_memory_bytes, settings.memory_bytes
    if used is None or limit is None or used <= limit:
        return None
    text = f"The training uses {used >> 20} MiB, more than the {limit >> 20} MiB of this scale."
    return Stop("memory", text, broken=True)


def _no_progress(history: Sequence[Metrics]) -> Stop | None:
    last = history[-1]
    limit = last.step - PATIENCE * last.steps
    before, recent = [m for m in history if m.step <= limit], [m for m in history if m.step > limit]
    if len(before) < 2 or len(recent) < 4:
        return None
    earlier, later = mean(m.train_loss for m in before[-2:]), mean(m.train_loss for m in recent[-2:])
    if later < earlier * 0.999:
        return None
    text = f"No progress: the loss was {earlier:.3f} at step {before[-1].step} and is {later:.3f} at step {last.step}."
    return Stop("no-progress", text, broken=True)


def _too_far_behind(history: Sequence[Metrics], settings: WatchSettings, peers: Sequence[Curve]) -> Stop | None:
    """The run's rule for early stopping, as replayed by `asi-arch stopping`. Stopped peers have no final loss."""
    last = history[-1]
    if settings.stopping == "none" or last.step >= last.steps:
        return None
    curve = Curve(tuple(m.step for m in history), tuple(m.train_loss for m in history), last.steps)
    if settings.stopping == "quantiles":
        rank = behind(curve, peers)
        if rank is None:
            return None
        text = (
            f"By {rank.fraction:.0%} of the steps the training loss is {rank.loss:.3f}, above {rank.bar:.3f}, the "
            f"{rank.quantile:.0%} quantile of {rank.compared} earlier trainings there."
        )
        return Stop("quantiles", text, broken=False)
    if last.step < settings.prune_from * last.steps:
        return None
    finished = [peer for peer in peers if peer.final is not None]
    prediction = forecast(finished, curve, settings.prune_from, [peer for peer in peers if peer.final is None])
    if prediction is None or not prediction.hopeless():
        return None
    text = (
        f"By {settings.prune_from:.0%} of the steps the final loss is predicted to be {prediction.predicted:.3f} "
        f"± {prediction.deviation:.3f}, above the median {prediction.bar:.3f} of {prediction.finished} finished "
        "trainings."
    )
    return Stop("extrapolation", text, broken=False)
