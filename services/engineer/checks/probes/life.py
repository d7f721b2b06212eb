"""Is anything learnt at all?"""

from services.engineer.checks.gradients import trainable, unreached
from services.engineer.checks.report import Finding
from services.engineer.checks.subject import State, Subject


def life(subject: Subject) -> Finding:
    """Expects at least one trainable parameter to receive a gradient at initialisation.

    Cannot see: parameters whose gradients are there but useless. Single dead parameters are a warning of their own.
    """
    mixer = subject.mixer(State(training=True))
    names = trainable(mixer)
    if not names:
        return Finding(True, "the mixer has no trainable parameter", {"parameters": 0})
    dead = unreached(subject, mixer)
    if dead == names:
        return Finding(True, f"none of the {len(names)} parameters receives a gradient", {"dead": sorted(dead)[:50]})
    return Finding(False, "parameters receive gradients", {"trainable": len(names), "with_gradient": len(names - dead)})
