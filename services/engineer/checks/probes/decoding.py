"""Does decoding from a cache agree with reading everything at once?"""

import torch
from torch import Tensor

from services.engineer.checks.comparing import largest_gap
from services.engineer.checks.report import Finding
from services.engineer.checks.signatures import accepts
from services.engineer.checks.subject import State, Subject
from services.engineer.program import explained

LENGTH = 40
PREFILL = 33
STATE = State(randomised=True)


def decoding(subject: Subject) -> Finding:
    """Reads a prefix into a cache, then token by token, and expects the outputs of the whole input in one go.

    A mixer that leaves the cache empty offers no cached decoding and passes.
    Cannot see: mistakes with masks, several layers, long inputs, or after beams are reordered.
    """
    if not accepts(subject.mixer(STATE), "past_key_values"):
        return Finding(False, "forward takes no past_key_values")
    inputs = subject.noise(2, LENGTH, subject.width)
    try:
        decoded = _decoded(subject, inputs)
    except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the error is the finding
        return Finding(True, f"cached decoding fails: {explained(error)}"[:800])
    if decoded is None:
        return Finding(False, "offers no cached decoding")
    gap = largest_gap(subject.output(inputs, STATE), decoded, subject.exact.tolerance)
    if gap.relative > subject.exact.tolerance:
        evidence = gap.evidence() | {"length": LENGTH, "prefill": PREFILL}
        return Finding(True, "cached decoding disagrees with reading everything at once", evidence)
    return Finding(False, "cached decoding agrees with reading everything at once")


def _decoded(subject: Subject, inputs: Tensor) -> Tensor | None:
    from fla.models.utils import Cache  # our CPU version, which the guest installs before anything is loaded

    mixer, cache = subject.mixer(STATE), Cache()
    starts = [0, *range(PREFILL, LENGTH)]
    parts = []
    with torch.no_grad():
        for start, end in zip(starts, [*starts[1:], LENGTH], strict=True):
            piece = inputs[:, start:end]
            parts.append(subject.call(mixer, piece, past_key_values=cache, use_cache=True))
            if not len(cache):
                return None
    return torch.cat(parts, dim=1)
