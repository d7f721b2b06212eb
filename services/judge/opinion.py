"""The port of judging: who looks at a case and says what the candidate is worth."""

from dataclasses import dataclass
from typing import Protocol

from services.domain.judge_rubric import MIDDLE, SubScores
from services.judge.case import Case


@dataclass(frozen=True)
class Opinion:
    """A judgement: `raw` on the anchors' scale 1–10, the sub-scores behind it, and why.

    `spread` is the standard deviation over several askings. `raw` is None with the reason in `absent_because`.
    """

    raw: float | None
    scores: SubScores | None
    justification: str
    judge: str
    spread: float | None = None
    absent_because: str = ""


def by_definition() -> Opinion:
    """The opinion on a run's root: 5 in everything, since the scale is measured from it."""
    text = "The root of the run: 5 by definition, what all others are compared with."
    return Opinion(MIDDLE, SubScores(MIDDLE, MIDDLE, MIDDLE), text, "definition")


class Judging(Protocol):
    """Judges cases."""

    async def judge(self, case: Case) -> Opinion:
        """The opinion on a case."""
        ...
