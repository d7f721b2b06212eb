"""The rubric computed from what was measured; the formula is in services/domain/judge_rubric.py."""

from services.domain.judge_rubric import judge_offline
from services.judge.case import Case, observation
from services.judge.opinion import Opinion, by_definition

NAME = "offline rubric 1"


class OfflineJudge:
    """Says what the numbers say, and that it is not a language model."""

    async def judge(self, case: Case) -> Opinion:
        """As the port says. The root is 5 in everything: it is what the scale is measured from."""
        if case.record.id == case.root.id:
            return by_definition()
        candidate = observation(case.record, case.relatives)
        root = observation(case.root, (case.root,))
        anchor = observation(case.anchor, (case.root,)) if case.anchor is not None else None
        judgement = judge_offline(candidate, root, anchor)
        if judgement is None:
            return Opinion(None, None, "", NAME, absent_because="a sub-score has nothing measured to be computed from")
        text = (
            f"Computed from measurements. Performance {judgement.scores.performance:.1f}, innovation "
            f"{judgement.scores.innovation:.1f}, complexity and efficiency {judgement.scores.complexity:.1f}; weighted "
            f"{judgement.weighted:.2f}, {_calibration(case)} {judgement.raw:.2f}."
        )
        return Opinion(judgement.raw, judgement.scores, text, NAME)


def _calibration(case: Case) -> str:
    if case.anchor is None:
        return "not calibrated, since Gated DeltaNet is not measured in this run:"
    return "calibrated with DeltaNet at 5 and Gated DeltaNet at 10:"
