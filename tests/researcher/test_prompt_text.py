"""Records as texts of a prompt: what was not measured is not said."""

from services.contracts import candidate_pb2 as pb
from services.contracts import checker_pb2, events_pb2
from services.researcher.draft import Draft, Refusal
from services.researcher.prompt_text import (
    BOARD_BEST,
    BOARD_NEWEST,
    board_text,
    curve_text,
    difference_text,
    focus_text,
    limits_text,
    noise_text,
    parts_text,
    record_text,
    refusals_text,
    scale_text,
)


def test_a_run_without_judge_shows_no_judge_score() -> None:
    """An absent verdict must not be shown as zero."""
    record = pb.Candidate(training=pb.Training(loss=1.5))
    record.verdict.fitness.value = 0.5

    assert "Fitness 0.5000." in record_text(record)
    assert "Judge" not in record_text(record)


def test_a_curve_holds_measured_points_only() -> None:
    """A point may hold a held-out loss alone."""
    seed = pb.SeedResult(curve=[pb.CurvePoint(step=1, loss=3.0), pb.CurvePoint(step=2, train_loss=2.5)])

    assert curve_text(seed) == "2: 2.500"


def test_a_score_is_shown_with_the_chance_level() -> None:
    """Of four choices, 0.27 is chance; a perplexity has no such number."""
    scores = [pb.TaskScore(task="code", value=0.27, chance=0.25), pb.TaskScore(task="wiki", value=31.5)]
    record = pb.Candidate(training=pb.Training(loss=1.5, seeds=[pb.SeedResult(scores=scores)]))

    assert "Scores: code 0.270 (guessing: 0.250), wiki 31.500." in record_text(record)


def test_missing_measurements_are_stated() -> None:
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
    assert "differences below 0.1924 may be chance" in text  # 4.30 · √2 · 0.0316 by Student's t


def test_noise_of_single_seeds_is_not_invented() -> None:
    """One seed each says nothing about noise."""
    assert noise_text([measured(1, 1.5)]).startswith("Seed noise is not measured yet")


def test_the_board_is_bounded_and_says_what_it_leaves_out() -> None:
    """The best by loss, the newest of the others, and how many are not listed; rejections tell their reason."""
    refused = pb.Candidate(id="c999", request=pb.Request(number=999), proposal=pb.Proposal(name="Leaky"))
    refused.rejection.stage, refused.rejection.reason = "check", "position 7 sees position 9"
    rows = board_text([measured(n, 1 + n / 1000) for n in range(200)] + [refused]).splitlines()

    assert len(rows) == BOARD_BEST + BOARD_NEWEST + 1
    assert rows[0] == "- N0 (c0); 1.0000"
    assert rows[BOARD_BEST] == "- Leaky (c999); rejected at check: position 7 sees position 9"
    assert rows[-1] == f"- and {201 - BOARD_BEST - BOARD_NEWEST} older ones"


def test_losses_by_part_are_shown_with_the_lowest_measured() -> None:
    """By position and kind of token; what nobody measured has no line."""
    parent, best = measured(1, 1.5), measured(2, 1.4)
    for record, digits in ((parent, 2.5), (best, 1.9)):
        record.training.seeds[0].part_losses.extend(
            (pb.PartLoss(part="tokens 1-16", loss=3.0, share=0.06), pb.PartLoss(part="digits", loss=digits, share=0.1))
        )

    assert parts_text(parent, [parent, best]) == (
        "Loss by position and kind of token (share): tokens 1-16 (6%) 3.000, digits (10%) 2.500 (lowest 1.900)."
    )
    assert parts_text(parent, [parent, best]) in record_text(parent, [parent, best])
    assert parts_text(measured(3, 1.3), [best]) == ""


def test_a_line_of_the_board_is_short_and_names_the_change() -> None:
    """Against the parent, the first few; the lesson is cut. About 50 tokens of four characters."""
    parent, child = measured(1, 1.5), measured(2, 1.4)
    parent.proposal.components.extend(f"old-component-{n}" for n in range(12))
    child.proposal.components.extend(("old-component-0", "gated-value-skip"))
    child.proposal.parent, child.training.loss_stderr = parent.id, 0.01
    child.analysis.synthesis = "Keep the gate that opens early and look for a cheaper one. " * 9

    parent.training.seeds[0].stopped = "By 25% of the steps it fell behind."

    line, root = board_text([parent, child]).splitlines()

    assert line.startswith("- N2 (c2); 1.4000 ± 0.0100; c1 +gated-value-skip −old-component-1 −old-component-2 ")
    assert " and 8 more; Keep the gate that opens early" in line
    assert len(line) <= 4 * 60
    assert root.startswith("- N1 (c1); 1.5000 (stopped early, not comparable); ")
    assert root.endswith("+old-component-2 +old-component-3 and 8 more")


def test_candidates_without_a_proposal_have_no_line() -> None:
    """Open seats have no results."""
    assert board_text([measured(1, 1.5), pb.Candidate(id="c2")]) == "- N1 (c1); 1.5000"


def test_the_evidence_of_a_failed_check_is_readable_and_not_repeated() -> None:
    """Nested values were printed as protobuf's text, 70 lines for one probe."""
    first, second = (pb.ProbeVerdict(probe=name, outcome="fail", message=f"{name} grows") for name in ("cost", "state"))
    first.evidence.update({"lengths": [256, 512], "exponents": {"flops": 1.97}})
    refusal = Refusal("check", Draft("N", "M", "x = 1\n"), "the check fails: cost: cost grows", (first, second))

    assert refusals_text([refusal]).splitlines()[:3] == [
        "- N: the check fails: cost: cost grows",
        '  cost: {"exponents": {"flops": 1.97}, "lengths": [256, 512]}',
        "  state: state grows ",
    ]


def test_the_limits_of_verification_are_shown_as_numbers() -> None:
    """A recorded run's best was not verified: its prompt had allowed a tenth more than the parent, not the root."""
    settings = events_pb2.RunSettings(promotion="halving", scale="mini")
    settings.policies.parameters, settings.policies.flops = "0.1", "+0.5"
    root = measured(1, 2.0)
    root.training.seeds[0].measurements.parameters = 1000
    root.training.seeds[0].measurements.flops_per_token = 4000.0

    assert limits_text(settings, root) == (
        "- size: 900 to 1,100 parameters (the root has 1,000) and at most 6,000 FLOPs per token (the root has 4,000); "
        "what has more or fewer parameters is recorded, not verified\n"
        "- leakage: a loss below 1.8000 is examined (longer probes, another seed, text of another source) and kept "
        "where it holds: do not avoid it"
    )
    assert "parameters within 10% of the root's" in limits_text(settings, None)
    settings.policies.match = "width"
    assert "is trained again at the width that comes nearest\n" in limits_text(settings, root)
    assert limits_text(events_pb2.RunSettings(promotion="none", scale="mini"), root).startswith("- size: no limit")


def test_the_suspicion_threshold_equals_that_of_the_judge() -> None:
    """A control far better than the root lowers it; a run under the paper's rule says that it keeps no such loss."""
    settings, root = events_pb2.RunSettings(), measured(1, 2.0)
    root.training.loss = 2.0
    control = pb.Candidate(training=pb.Training(loss=1.5))
    strict = events_pb2.RunSettings(policies=events_pb2.Policies(leakage="paper"))

    assert "a loss below 1.3500 is examined" in limits_text(settings, root, [root, control])
    assert "a loss below 1.8000 is rejected as a leak" in limits_text(strict, root)
    assert "a loss far below all others is examined" in limits_text(settings, None)


def test_consecutive_seats_get_different_prompts() -> None:
    """Of three recorded questions that were equal to the letter, two answers were lost as repeats."""
    assert len({focus_text(number) for number in range(100)}) == 100
    assert focus_text(1).split(" about ")[1] != focus_text(2).split(" about ")[1]


def test_novelty_is_judged_by_what_the_program_changes() -> None:
    """Docstrings and layout are no difference; the neighbour whose code is nearest is compared with."""
    near, far = measured(1, 1.5), measured(2, 1.6)
    near.proposal.program = '"""One."""\nscale = 2\nlags = 1\n'
    far.proposal.program = "def other():\n    return 5\n"

    assert difference_text("scale = 2  # as before\nlags = 3", [far, near]).splitlines()[-3:] == [
        "-lags = 1",
        "+lags = 3",
        "```",
    ]
    assert difference_text("scale=2\nlags=1", [near]) == "Nothing: its code is that of c1."
    assert difference_text("scale=2", []) == "No program to compare with."


def test_objectives_are_shown_with_the_values_of_the_root() -> None:
    """Of a run that has none, nothing."""
    settings = events_pb2.RunSettings(policies=events_pb2.Policies(objectives="loss,parameters"))
    root = measured(1, 2.0)
    root.training.seeds[0].measurements.parameters = 40_000

    assert "objectives: loss, parameters (the root: loss 2, parameters 40,000)" in limits_text(settings, root)
    assert "objectives: loss, parameters;" in limits_text(settings, None)
    assert "objectives" not in limits_text(events_pb2.RunSettings(), root)


def test_measured_costs_of_functions_are_shown_beside_their_names() -> None:
    """One function by two names is told once, and a name without a measurement has no number."""
    scale = checker_pb2.ScaleDescription(
        width=128,
        heads=4,
        modules=["fla.modules: L2Norm, RMSNorm", "fla.ops.delta_rule: chunk_delta_rule, fused_chunk_delta_rule"],
    )
    unmeasured = scale_text(scale)
    scale.costs.update({"RMSNorm": 0.31, "chunk_delta_rule": 6.2, "fused_chunk_delta_rule": 6.2})
    scale.cost_tokens, scale.linear_seconds = 1024, 0.0013

    assert unmeasured.endswith(
        "from fla here: fla.modules: L2Norm, RMSNorm; fla.ops.delta_rule: chunk_delta_rule, fused_chunk_delta_rule"
    )
    assert scale_text(scale).endswith(
        "(behind a name: its cost on this machine, forward and backward on 1,024 tokens, where a nn.Linear(128, 128) "
        "costs 1, 1.3 ms): fla.modules: L2Norm, RMSNorm 0.3; "
        "fla.ops.delta_rule: chunk_delta_rule = fused_chunk_delta_rule 6.2"
    )
