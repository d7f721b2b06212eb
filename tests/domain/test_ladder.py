"""The ladder of stages: what settings say, who climbs when, with which seeds."""

import pytest

from services.domain.ladder import Ladder, Stage, arrived, climb, climb_of, limited, measured, reopened, under_way
from services.domain.promotion import Budget, Limit, PaperPromotion, Result, Rung, SuccessiveHalving
from services.domain.run_state import RunState
from services.store.backends.rows import state_from_json, state_to_json

STAGES = (Stage("tiny", 2, (("tokens", "800000"),)), Stage("explore", 3))
CONTROLS = ("c000001", "c000002")
HALF = SuccessiveHalving(eta=2, budget=Budget(None, None))


def loss(name: str, value: float) -> Result:
    return Result(name, -value, value)


def stored(ladder: Ladder) -> Ladder:
    """The ladder as an archive reads it back."""
    return state_from_json(state_to_json(RunState(ladder=ladder))).ladder


def ladder_of(*losses: float) -> Ladder:
    """A ladder at whose foot the root has loss 2 and candidates c000003, c000004, … have these."""
    ladder = measured(Ladder(), 0, loss("c000001", 2.0), root=True)
    for number, value in enumerate(losses, 3):
        ladder = measured(ladder, 0, loss(f"c{number:06d}", value), root=False)
    return ladder


def test_the_stored_form_keeps_every_result() -> None:
    """Also what was not measured, and a root that has none."""
    unscored = Result("c000003", None, 1.9)
    ladder = Ladder(rungs=(Rung(kept=(unscored, loss("c000004", 2.0))),), roots=(None, loss("c000001", 2.0)))

    assert stored(ladder) == ladder


def test_controls_are_promoted_with_the_first_candidate_and_share_its_seeds() -> None:
    """Differences are paired; a control that goes along later would be trained with other seeds."""
    ladder, promoted = climb(ladder_of(1.9, 1.8), HALF, STAGES, CONTROLS, over=False)

    assert [promotion.candidate for promotion in promoted] == ["c000001", "c000002", "c000004"]
    assert {promotion.seeds for promotion in promoted} == {(1001, 1002)}
    assert {(promotion.rung, promotion.stage) for promotion in promoted} == {(1, STAGES[0])}
    for name, value in (("c000005", 1.0), ("c000006", 2.5)):
        ladder = measured(ladder, 0, loss(name, value), root=False)
    _, more = climb(ladder, HALF, STAGES, CONTROLS, over=False)
    assert [(promotion.candidate, promotion.seeds) for promotion in more] == [("c000005", (1001, 1002))]


def test_the_second_rung_uses_seeds_of_its_own() -> None:
    """What selected the finalists must not judge them."""
    ladder, _ = climb(ladder_of(1.9, 1.8), HALF, STAGES, CONTROLS, over=True)
    for name, value in (("c000004", 1.7), ("c000002", 1.95)):
        ladder = arrived(ladder, 1, name, loss(name, value), root=False)
        ladder, early = climb(ladder, HALF, STAGES, CONTROLS, over=True)
        assert early == ()
    ladder = arrived(stored(ladder), 1, "c000001", loss("c000001", 2.0), root=True)
    ladder, promoted = climb(ladder, HALF, STAGES, CONTROLS, over=True)

    assert {(promotion.rung, promotion.seeds) for promotion in promoted} == {(2, (1101, 1102, 1103))}
    assert {promotion.candidate for promotion in promoted} == {"c000001", "c000002", "c000004"}


def test_a_candidate_of_another_size_is_promoted_with_matched_parameters() -> None:
    """The controls are trained as they are."""
    ladder = measured(Ladder(), 0, Result("c000001", 0.5, 2.0, None, 1000), root=True)
    for name, size in (("c000003", 1020), ("c000004", 1500)):
        ladder = measured(ladder, 0, Result(name, 0.6, 1.5, None, size), root=False)
    promote_all = SuccessiveHalving(eta=2, budget=Budget(flops=None, match=True))
    _, promoted = climb(ladder, promote_all, STAGES[:1], CONTROLS, over=False)
    big = measured(ladder, 0, Result("c000005", 0.9, 1.4, None, 1500), root=False)
    _, later = climb(big, promote_all, STAGES[:1], CONTROLS, over=True)

    assert [(promotion.candidate, promotion.match) for promotion in promoted] == [
        ("c000001", None), ("c000002", None), ("c000003", None)
    ]  # fmt: skip
    assert ("c000005", 1000) in [(promotion.candidate, promotion.match) for promotion in later]


def test_a_fork_repeats_open_verifications() -> None:
    """The engineers of the fork do not have the trainings."""
    ladder, promoted = climb(ladder_of(1.9, 1.8), HALF, STAGES, CONTROLS, over=False)
    again = under_way(ladder, STAGES)

    assert {(promotion.candidate, promotion.rung, promotion.seeds) for promotion in again} == {
        (promotion.candidate, promotion.rung, promotion.seeds) for promotion in promoted
    }
    assert limited(ladder, ()).climbing == frozenset()


def test_settings_name_policy_stages_and_budgets() -> None:
    """Text from the command line becomes rules; the run's own overrides hold at its own scale."""
    policies = {"stages": "tiny:tokens=1200000:seeds=4, explore", "flops": "+0.2", "parameters": "none", "eta": "3"}
    rules = climb_of("halving", policies, "tiny", {"steps": "100", "width": "64"})

    assert rules.promotion == SuccessiveHalving(3, Budget(None, Limit(0.2, upwards=True)))
    assert rules.stages == (
        Stage("tiny", 4, (("tokens", "1200000"), ("width", "64"))),
        Stage("explore", 5),
    )
    assert rules.discovery.seeds == 5
    assert climb_of("paper", {"verify": 2}, "tiny", {}).promotion == PaperPromotion(top=2)
    assert climb_of("none", {}, "tiny", {}).promotion is None


@pytest.mark.parametrize(
    ("policies", "named"),
    [
        ({"eta": "many"}, "eta"),
        ({"stages": ""}, "stages"),
        ({"stages": "tiny:seeds"}, "NAME=VALUE"),
        ({"parameters": "much"}, "parameters"),
        ({"stages": "tiny:seeds=0"}, "seeds"),
        ({"level": "2"}, "level"),
        ({"match": "height"}, "match"),
    ],
)
def test_impossible_policies_are_refused_by_name(policies: dict[str, object], named: str) -> None:
    """Before a run starts."""
    with pytest.raises(ValueError, match=named):
        climb_of("halving", policies, "tiny", {})


def test_a_fork_with_another_budget_reconsiders_excluded_candidates() -> None:
    """The best of a run may be too large for the run's own limit: the next one need not search for it again."""
    ladder = measured(Ladder(), 0, Result("c000001", 0.5, 2.0, None, 1000), root=True)
    for name, value, size in (("c000003", 1.6, 1000), ("c000004", 1.5, 1150), ("c000005", 1.7, 1000)):
        ladder = measured(ladder, 0, Result(name, -value, value, None, size), root=False)
    strict, wide = (SuccessiveHalving(eta=3, budget=Budget(Limit(share), None)) for share in (0.1, 0.2))
    ladder, first = climb(ladder, strict, STAGES[:1], ("c000001",), over=True)
    forked = stored(reopened(stored(ladder)))
    forked, second = climb(forked, wide, STAGES[:1], ("c000001",), over=True)

    assert [promotion.candidate for promotion in first] == ["c000001", "c000003"]
    assert [(promotion.candidate, promotion.seeds) for promotion in second] == [
        ("c000001", (2001, 2002)),
        ("c000004", (2001, 2002)),
    ]
    assert forked.earlier == {"c000003"}
    assert forked.rungs[0].count == 3
