"""Strategies that choose a parent: each does what its name says, and repeats under the same randomness."""

import random
from collections import Counter
from functools import partial

import pytest

from services.domain.pool import STRATEGIES, Entry, ParentStrategy, islands, paper, power_law, strategy, uct, uniform

FAMILY = [
    Entry("delta", 0.3, 0),
    Entry("gated", 0.5, 1),
    *(Entry(f"d{n}", 0.3 + n / 100, 2 + n, "delta") for n in range(10)),
    *(Entry(f"g{n}", 0.5 + n / 100, 12 + n, "gated") for n in range(10)),
]


def chosen(strategy: ParentStrategy, entries: list[Entry] = FAMILY, times: int = 400) -> Counter[str]:
    rng = random.Random(0)
    return Counter(strategy(entries, rng) for _ in range(times))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_deterministic_and_chooses_from_the_entries(name: str) -> None:
    """Replay and the same seed must give the same parents."""
    picks = [strategy(name)(FAMILY, random.Random(seed)) for seed in range(20)]

    assert picks == [strategy(name)(list(reversed(FAMILY)), random.Random(seed)) for seed in range(20)]
    assert set(picks) <= {entry.id for entry in FAMILY}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_takes_one_entry_and_refuses_none(name: str) -> None:
    """The smallest archive, and the impossible one; a parent outside the entries makes a root."""
    assert strategy(name)([Entry("only", 0.1, 0, "elsewhere")], random.Random(0)) == "only"
    with pytest.raises(ValueError, match="empty"):
        strategy(name)([], random.Random(0))


def test_unknown_names_list_the_known_ones() -> None:
    """An error about a misspelt name lists the choices."""
    with pytest.raises(ValueError, match="power-law"):
        strategy("powerlaw")


def test_paper_chooses_among_the_top_and_uniform_among_all() -> None:
    """Ranks 1–10 here are g0 to g9, of which g0 ties with its parent and comes later."""
    assert set(chosen(paper)) == {"gated", *(f"g{n}" for n in range(1, 10))}
    assert len(chosen(uniform)) == len(FAMILY)


def test_power_law_prefers_by_rank() -> None:
    """The first 2^1.5 times as often as the second, on average."""
    counts = chosen(power_law, times=6000)

    assert counts["g9"] / counts["g8"] == pytest.approx(2**1.5, rel=0.15)
    assert chosen(partial(power_law, exponent=50)) == {"g9": 400}


def test_islands_give_every_family_its_share() -> None:
    """Half of the parents come from the weaker root's family."""
    counts = chosen(partial(islands, count=2, top=3))

    assert sum(count for name, count in counts.items() if name.startswith("d")) == pytest.approx(200, abs=40)
    assert len(chosen(partial(islands, count=8, top=1))) == 8


def test_uct_leaves_an_exhausted_branch_for_a_fresh_one() -> None:
    """Many poor children of a good parent make another root worth a try; without exploration the best mean wins."""
    tired = [Entry("good", 0.9, 0), Entry("other", 0.5, 1)]
    tired += [Entry(f"poor{n}", 0.1 + n / 1000, 2 + n, "good") for n in range(30)]

    assert set(chosen(uct, tired)) == {"other"}
    assert chosen(partial(uct, exploration=0)).most_common(1)[0][0] == "g9"


def test_uct_is_quick_on_a_deep_chain() -> None:
    """A tree as deep as it is big must not cost quadratic time."""
    chain = [Entry(f"n{n:05}", n / 1e6, n, f"n{n - 1:05}" if n else None) for n in range(5000)]

    assert uct(chain, random.Random(0)) in {entry.id for entry in chain}
