"""Does a mask that masks nothing change anything?"""

import torch

from services.engineer.checks.comparing import largest_gap
from services.engineer.checks.report import Finding
from services.engineer.checks.signatures import accepts
from services.engineer.checks.subject import State, Subject
from services.engineer.program import explained

SHAPE = (2, 65)


def mask(subject: Subject) -> Finding:
    """Passes an attention mask of all ones, which must give the answer of no mask at all.

    The usual mistake is a path for padded input that lays all rows end to end and lets their states run on.
    Cannot see: how padding is treated.
    """
    mixer = subject.mixer(State(randomised=True))
    if not accepts(mixer, "attention_mask"):
        return Finding(False, "forward takes no attention_mask")
    inputs = subject.noise(*SHAPE, subject.width)
    without = subject.output(inputs, State(randomised=True))
    try:
        ones = torch.ones(SHAPE, dtype=torch.long)
        masked = subject.call(mixer, inputs, attention_mask=ones).detach()
    except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the error is the finding
        return Finding(True, f"forward fails with a mask of all ones: {explained(error)}"[:800])
    gap = largest_gap(without, masked, subject.exact.tolerance)
    if gap.relative > subject.exact.tolerance:
        return Finding(True, "a mask of all ones changes the answer", gap.evidence())
    return Finding(False, "a mask of all ones changes nothing")
