"""The live comparison of two searches: what a pair shares, and what is said of the differences."""

import hashlib
from pathlib import Path

import pytest

from bench.paired_search import Run, main, measure_in_process, report

BASELINES = ("delta_net", "gated_delta_net")


def loss_of(program: str) -> float:
    """A loss that is the program's own and costs no training."""
    return 2.0 + int(hashlib.sha256(program.encode()).hexdigest()[:4], 16) / 65536


def test_a_run_depends_on_its_seed_and_side_only() -> None:
    first, again, other = (measure_in_process("random", seed, 6, BASELINES, loss_of) for seed in (1, 1, 2))

    assert first.losses == again.losses
    assert first.losses != other.losses
    assert len(first.losses) == 6


def test_a_model_guides_once_enough_is_measured() -> None:
    """Ten proposals: the first few are far children, the rest are chosen by expected improvement."""
    run = measure_in_process("surrogate", 1, 10, BASELINES, loss_of)

    assert len(set(run.losses)) == 10


def test_two_language_models_are_compared_by_tokens_and_first_drafts_too() -> None:
    """Quick experiments cost questions: a lower loss alone does not say that they pay."""
    runs = [Run("3", 1, (2.0, 2.2), 1.0, 30_000, 2), Run("0", 1, (2.1, None), 1.0, 10_000, 1)]
    runs += [Run("3", 2, (2.0, 2.0), 1.0, 50_000, 2), Run("0", 2, (2.2, 2.1), 1.0, 12_000, 2)]

    lines = report(runs, ("3", "0"), 2).splitlines()

    assert "over 2 pairs, 2 of them positive" in lines[2]
    assert lines[3:] == [
        "3: mean loss 2.0500 over 4 proposals; first drafts new and sound 4 of 4; 40,000 tokens per run",
        "0: mean loss 2.1333 over 3 proposals; first drafts new and sound 3 of 4; 11,000 tokens per run",
    ]


def test_the_numbers_of_the_guide_on_quick_experiments_are_in_the_shipped_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Tokens and first drafts are read back, too: a comparison may go on after an interruption."""
    file = str(Path(__file__).parents[2] / "examples/recorded-run/experiments.json")
    main(["--report", "--sides", "3,0", "--out", file])

    printed = capsys.readouterr().out
    assert "after 1 proposals: +0.2094 [+0.1610, +0.2579] over 2 pairs, 2 of them positive" in printed
    assert "3: mean loss 2.2848 over 2 proposals; first drafts new and sound 2 of 2; 25,366 tokens per run" in printed
    assert "0: mean loss 2.4943 over 2 proposals; first drafts new and sound 2 of 2; 6,054 tokens per run" in printed


def test_the_difference_comes_with_its_interval_and_unfinished_pairs_do_not_count() -> None:
    gains = (0.01, 0.02, 0.03)
    runs = [Run("surrogate", seed, (2.5, None, 2.0), 1.0) for seed in range(4)]
    runs += [Run("random", seed, (2.5, 2.4, 2.0 + gain), 1.0) for seed, gain in enumerate(gains)]

    text = report(runs, ("surrogate", "random"), 3)

    assert "after 3 proposals: +0.0200 [-0.0048, +0.0448] over 3 pairs, 3 of them positive" in text
    assert "after 1 proposals: 0 complete pairs" not in text
    assert "too few for an interval" in report(runs[:5], ("surrogate", "random"), 3)
