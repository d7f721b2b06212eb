"""Does the answer for a prefix depend on how long the input goes on?"""

from services.engineer.checks.comparing import largest_gap
from services.engineer.checks.report import Finding
from services.engineer.checks.subject import EVALUATED, State, Subject

LENGTH = 160
PREFIXES = (1, 2, 3, 16, 31, 32, 33, 63, 64, 65, 97, 128, 130)
LONG = 600
LONG_PREFIXES = (255, 513)


def prefix(subject: Subject) -> Finding:
    """Feeds prefixes of an input alone and expects the same outputs as within the whole.

    Finds positions divided by the length, gates on the length and other paths for short inputs, which make training,
    scoring and generation three different models. In evaluation mode, at initialisation and with randomised parameters.
    Cannot see: paths that begin beyond 600 positions, and dependence on the length in training mode only.
    """
    for state in EVALUATED:
        finding = _compared(subject, state, LENGTH, PREFIXES)
        if finding:
            return finding
    return _compared(subject, EVALUATED[1], LONG, LONG_PREFIXES) or Finding(
        False, "the output for a prefix is the prefix of the output"
    )


def _compared(subject: Subject, state: State, length: int, prefixes: tuple[int, ...]) -> Finding | None:
    inputs = subject.noise(1, length, subject.width)
    whole = subject.output(inputs, state)
    for part in prefixes:
        gap = largest_gap(whole[:, :part], subject.output(inputs[:, :part], state), subject.exact.tolerance)
        if gap.relative > subject.exact.tolerance:
            message = f"the first {part} outputs differ when the input ends there instead of at {length} ({state})"
            return Finding(True, message, {**gap.evidence(), "prefix": part, "length": length})
    return None
