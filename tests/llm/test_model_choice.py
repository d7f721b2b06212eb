"""The choice of a model and of the time of a retry: bandit, circuit breaker, back-off. All pure."""

import random
from datetime import UTC, datetime

import pytest

from services.llm.exchange import retry_after
from services.llm.model_client import Circuit
from services.llm.openai_mind import Bandit
from services.llm.settings import Retry

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def play(costs: dict[str, float], gains: dict[str, float], rounds: int) -> dict[str, int]:
    bandit, rng = Bandit(list(costs)), random.Random(1)
    for _ in range(rounds):
        model = bandit.order()[0]
        bandit.asked(model, costs[model])
        bandit.rewarded(model, float(rng.random() < gains[model]))
    return {model: arm.asked for model, arm in bandit.arms.items()}


def test_every_model_is_tried_in_the_given_order_first() -> None:
    """Nothing is known of a model that was never asked."""
    bandit = Bandit(["a", "b"])

    assert bandit.order() == ["a", "b"]
    bandit.asked("a")
    assert bandit.order() == ["b", "a"]


def test_the_better_model_is_asked_more_often_but_not_always() -> None:
    """Upper confidence bounds."""
    counts = play({"good": 1.0, "bad": 1.0}, {"good": 0.8, "bad": 0.2}, 400)

    assert counts["good"] > 3 * counts["bad"] > 0


def test_a_slightly_better_model_at_ten_times_the_cost_is_not_worth_it() -> None:
    """Gain per unit of cost decides."""
    counts = play({"dear": 1.0, "cheap": 0.1}, {"dear": 0.5, "cheap": 0.4}, 300)

    assert counts["cheap"] > 5 * counts["dear"]


def test_calls_before_any_reward_spread_over_the_models() -> None:
    """Candidates train for minutes; until then nobody knows."""
    bandit = Bandit(["a", "b", "c"])
    for _ in range(30):
        bandit.asked(bandit.order()[0])

    assert {arm.asked for arm in bandit.arms.values()} == {10}


def test_a_gain_that_is_not_a_number_is_refused() -> None:
    """It would make every later mean NaN."""
    with pytest.raises(ValueError, match="finite"):
        Bandit(["a"]).rewarded("a", float("nan"))


def test_a_circuit_opens_after_failures_in_a_row_and_tries_once() -> None:
    """Half-open: a single trial, which closes it or doubles the rest."""
    circuit = Circuit(failures=2, seconds=10, longest=15)
    circuit.failed(0.0)
    closed = circuit.wait(0.0)
    circuit.failed(0.0)
    resting, over = circuit.wait(4.0), circuit.wait(10.0)
    circuit.enter()
    while_trying = circuit.wait(11.0)
    circuit.failed(12.0)
    longer = circuit.wait(12.0)
    circuit.enter()
    circuit.succeeded()

    assert (closed, resting, over, longer) == (0.0, 6.0, 0.0, 15.0)
    assert while_trying > 0.0
    assert circuit.wait(28.0) == 0.0


def test_waits_grow_with_jitter_up_to_a_limit() -> None:
    """So that concurrent callers do not retry together."""
    rng, rule = random.Random(0), Retry(base_seconds=1.0, longest_seconds=8.0)
    waits = [[rule.wait(repetition, rng, None) for _ in range(200)] for repetition in (1, 3, 9)]

    assert [max(each) <= limit for each, limit in zip(waits, (1.0, 4.0, 8.0), strict=True)] == [True] * 3
    assert max(waits[2]) - min(waits[2]) > 4.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 2026 12:01:00 GMT"}, 60.0),
        ({"retry-after": "Thu, 01 Jan 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Thu, 01 Jan 2026 19:01:00 GMT", "date": "Thu, 01 Jan 2026 19:00:00 GMT"}, 60.0),
        ({"retry-after": "Thu, 01 Jan 2026 05:01:00 GMT", "date": "Thu, 01 Jan 2026 05:00:00 GMT"}, 60.0),
        ({"retry-after": "Thu, 01 Jan 2026 12:01:00 GMT", "date": "now"}, 60.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds, a date by either clock, or nonsense, which is ignored."""
    assert retry_after(headers, NOW) == seconds


def test_the_wait_is_never_shorter_than_the_endpoint_asks() -> None:
    """Whatever our own back-off says."""
    assert Retry(base_seconds=0.1).wait(1, random.Random(0), 30.0) >= 30.0
