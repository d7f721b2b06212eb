"""Are there parameters that do nothing?"""

from services.engineer.checks.gradients import unreached, unreached_after_a_step
from services.engineer.checks.report import JSON, Finding
from services.engineer.checks.subject import State, Subject


def unused(subject: Subject) -> Finding:
    """Names parameters without a gradient: unused (none with randomised parameters either) or dead as initialised.

    Dead is only what one step along the gradient does not wake: a zero-initialised projection is good practice.
    Cannot see: parameters used only beyond 70 positions or with a mask or a cache, and effects that cancel out.
    """
    dead = unreached_after_a_step(subject)
    if not dead:
        return Finding(False, "every parameter is used")
    never = dead & unreached(subject, subject.mixer(State(randomised=True, training=True)))
    asleep = dead - never
    evidence: dict[str, JSON] = {"unused": sorted(never), "dead_at_initialisation": sorted(asleep)}
    said = [
        f"{what}: {', '.join(sorted(names)[:5])}"
        for what, names in (("never used", never), ("dead as initialised", asleep))
        if names
    ]
    return Finding(True, "parameters " + "; ".join(said), evidence)
