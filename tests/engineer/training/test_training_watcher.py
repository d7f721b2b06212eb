"""Each rule stops what it should, and nothing that merely looks like it."""

import pytest

from services.domain.curves import Curve
from services.engineer.training.result import Metrics
from services.engineer.training.watcher import Peers, WatchSettings, watch


def history(
    losses: list[float],
    pace: float = 0.1,
    memory: int = 1000,
    steps: int = 100,
    busy: float | None = None,
    waited: float = 0.0,
) -> list[Metrics]:
    """Metrics every ten steps."""
    return [
        Metrics(
            seed=0,
            step=10 * (i + 1),
            steps=steps,
            tokens=0,
            train_loss=loss,
            grad_norm=1.0,
            tokens_per_second=1.0,
            seconds_per_step=pace,
            seconds=1.0,
            peak_memory_bytes=memory,
            busy_per_step=busy,
            waited_per_step=waited,
        )
        for i, loss in enumerate(losses)
    ]


FALLING = [5.0, 4.0, 3.5, 3.0, 2.8, 2.6, 2.5, 2.4, 2.35, 2.3]


@pytest.mark.parametrize(
    ("metrics", "settings", "peers", "rule"),
    [
        (history([5.0, float("nan")]), WatchSettings(), Peers(), "not-finite"),
        (history([5.0, 0.05]), WatchSettings(), Peers(), "leak"),
        (history([5.0, 1.0]), WatchSettings(leak=0.25), Peers(lowest_loss=1.5), "leak"),
        (history([2.0, 4.0, 4.1, 4.2]), WatchSettings(), Peers(), "divergence"),
        (history([5.0, 4.0, 3.5], pace=1.0), WatchSettings(), Peers(seconds_per_step=0.2), "slow"),
        (history([5.0, 4.0, 3.5], pace=1.0, busy=0.7), WatchSettings(), Peers(seconds_per_step=0.2), "slow"),
        (history([5.0, 4.0, 3.5], pace=2.5, busy=0.1), WatchSettings(), Peers(seconds_per_step=0.2), "slow"),
        (history([5.0], memory=2000), WatchSettings(memory_bytes=1500), Peers(), "memory"),
        (history([5.0, 4.9, *[5.0] * 6]), WatchSettings(), Peers(), "no-progress"),
    ],
)
def test_each_rule_stops_the_training_it_is_meant_for(
    metrics: list[Metrics], settings: WatchSettings, peers: Peers, rule: str
) -> None:
    """The reason is a fact that is published: it must be the right one."""
    decision = watch(metrics, settings, peers, [])

    assert decision is not None
    assert decision.rule == rule


def test_a_normal_training_is_not_stopped() -> None:
    """A watcher that stops good candidates costs discoveries."""
    settings, peers = WatchSettings(memory_bytes=1500), Peers(seconds_per_step=0.05, lowest_loss=2.4)

    assert all(watch(history(FALLING)[: i + 1], settings, peers, []) is None for i in range(len(FALLING)))


def test_slow_steps_on_a_busy_machine_do_not_stop_a_training() -> None:
    """Five times the peers' time, of which others took most, or longer while it waited for a processor."""
    delayed, starved = history([5.0, 4.0, 3.5], pace=1.0, busy=0.2), history([5.0, 4.0, 3.5], 9.0, busy=0.2, waited=7.0)

    assert watch(delayed, WatchSettings(), Peers(seconds_per_step=0.2), []) is None
    assert watch(starved, WatchSettings(), Peers(seconds_per_step=0.2), []) is None


def test_one_spike_is_not_divergence() -> None:
    """Single bad batches happen."""
    assert watch(history([4.0, 3.0, 5.0, 2.9]), WatchSettings(), Peers(), []) is None


def finished(count: int, stopped: bool = False) -> list[Curve]:
    """Curves that fall to finals from 2.0 upwards and are ordered from the beginning."""
    return [
        Curve(
            tuple(range(10, 101, 10)),
            tuple(2.0 + 0.1 * i + (10 - s) * 0.2 for s in range(1, 11)),
            100,
            None if stopped else 2.0 + 0.1 * i,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(("rule", "few", "enough"), [("extrapolation", 4, 10), ("quantiles", 12, 16)])
def test_stopping_is_off_unless_switched_on_and_needs_enough_curves(rule: str, few: int, enough: int) -> None:
    """It is a choice of the run, needs enough curves, and does not count against the program."""
    bad = history([4.0 + 0.2 * (10 - s) for s in range(1, 6)])

    assert watch(bad, WatchSettings(), Peers(), finished(enough)) is None
    assert watch(bad, WatchSettings(stopping=rule), Peers(), finished(few)) is None
    decision = watch(bad, WatchSettings(stopping=rule), Peers(), finished(enough))
    assert decision is not None
    assert not decision.broken
