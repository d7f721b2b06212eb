"""Does a checkpoint hold all that the model is?"""

from services.engineer.checks.comparing import largest_gap
from services.engineer.checks.report import Finding
from services.engineer.checks.subject import State, Subject

CALLS = 3


def checkpoint(subject: Subject) -> Finding:
    """Trains a little, loads the parameters and buffers into a new mixer, and expects the same answer from both.

    Finds counters, statistics and random features that are kept outside parameters and persistent buffers.
    Cannot see: state that only matters after more than a few calls, and the optimiser's.
    """
    inputs = subject.noise(2, 65, subject.width)
    trained = subject.mixer(State(randomised=True, training=True))
    for _ in range(CALLS):
        subject.call(trained, inputs)
    restored = subject.exact.place(subject.fresh(seed=subject.seed + 1))
    try:
        restored.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        return Finding(True, f"its checkpoint does not load into a new mixer: {error}"[:500])
    left, right = (subject.call(mixer.eval(), inputs).detach() for mixer in (trained, restored))
    gap = largest_gap(left, right, subject.exact.tolerance)
    if gap.relative > subject.exact.tolerance:
        return Finding(True, "the answer changes after a checkpoint is saved and loaded", gap.evidence())
    return Finding(False, "a checkpoint holds the whole model")
