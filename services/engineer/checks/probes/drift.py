"""Does the answer change with the number of calls?"""

from services.engineer.checks.comparing import largest_gap
from services.engineer.checks.report import Finding
from services.engineer.checks.subject import State, Subject

CALLS = 4


def drift(subject: Subject) -> Finding:
    """Calls one mixer several times with the same input in evaluation mode and expects the same answer each time.

    Finds step counters and schedules that go on counting while the model is evaluated.
    Cannot see: what begins later than the fourth call, and schedules that count in training mode only, which are sound.
    """
    inputs = subject.noise(2, 65, subject.width)
    mixer = subject.mixer(State(randomised=True))
    first = subject.call(mixer, inputs).detach()
    for call in range(2, CALLS + 1):
        gap = largest_gap(first, subject.call(mixer, inputs).detach(), subject.exact.tolerance)
        if gap.relative > subject.exact.tolerance:
            return Finding(
                True, f"call {call} in evaluation mode differs from the first", gap.evidence() | {"call": call}
            )
    return Finding(False, f"{CALLS} calls in evaluation mode agree")
