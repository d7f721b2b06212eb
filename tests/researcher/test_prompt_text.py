"""Records as texts of a prompt: what was not measured is not said."""

from services.contracts import candidate_pb2 as pb
from services.researcher.prompt_text import BOARD_BEST, BOARD_NEWEST, board_text, curve_text, noise_text, record_text


def test_a_run_without_judge_tells_no_score_of_a_judge() -> None:
    """Zero of ten would be a verdict that nobody gave."""
    record = pb.Candidate(training=pb.Training(loss=1.5))
    record.verdict.fitness.value = 0.5

    assert "Fitness 0.5000." in record_text(record)
    assert "Judge" not in record_text(record)


def test_a_curve_holds_measured_points_only() -> None:
    """A point may hold a held-out loss alone."""
    seed = pb.SeedResult(curve=[pb.CurvePoint(step=1, loss=3.0), pb.CurvePoint(step=2, train_loss=2.5)])

    assert curve_text(seed) == "2: 2.500"


def test_nothing_measured_is_said_so() -> None:
    """An empty text would look like a mistake."""
    assert record_text(pb.Candidate()) == "Nothing was measured yet."


def measured(number: int, *losses: float) -> pb.Candidate:
    """A candidate trained once for each of these losses."""
    seeds = [pb.SeedResult(seed=seed, loss=loss) for seed, loss in enumerate(losses)]
    training = pb.Training(loss=sum(losses) / len(losses), seeds=seeds)
    return pb.Candidate(
        id=f"c{number}", request=pb.Request(number=number), proposal=pb.Proposal(name=f"N{number}"), training=training
    )


def test_noise_is_pooled_over_the_candidates_with_several_seeds() -> None:
    """Two pairs whose standard deviations are 0.01 √2 and 0.03 √2: pooled √((2 + 18) / 2) · 0.01."""
    text = noise_text([measured(1, 1.50, 1.52), measured(2, 1.60, 1.66), measured(3, 1.4)])

    assert "standard deviation 0.0316 nats (2 degrees of freedom)" in text


def test_noise_of_single_seeds_is_not_invented() -> None:
    """One seed each says nothing about noise."""
    assert noise_text([measured(1, 1.5)]).startswith("Seed noise is not measured yet")


def test_the_board_is_bounded_and_says_what_it_leaves_out() -> None:
    """The best by loss, the newest of the others, and how many are not listed; rejections tell their reason."""
    refused = pb.Candidate(id="c999", request=pb.Request(number=999), proposal=pb.Proposal(name="Leaky"))
    refused.rejection.stage, refused.rejection.reason = "check", "position 7 sees position 9"
    rows = board_text([measured(n, 1 + n / 1000) for n in range(200)] + [refused]).splitlines()

    assert len(rows) == BOARD_BEST + BOARD_NEWEST + 1
    assert rows[0] == "- N0 (c0); loss 1.0000"
    assert rows[BOARD_BEST] == "- Leaky (c999); rejected at check: position 7 sees position 9"
    assert rows[-1] == f"- and {201 - BOARD_BEST - BOARD_NEWEST} older ones"
