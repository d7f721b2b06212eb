"""How many parameters does it have, against the baseline's?"""

from services.engineer.checks.report import JSON, Finding
from services.engineer.checks.subject import Subject


def parameters(subject: Subject) -> Finding:
    """Counts the language model's parameters at the scale's sizes and compares with the baseline's.

    Cannot see: what is tied outside the mixer, or sizes that the program only takes at other scales.
    """
    settings = subject.settings
    mixer = sum(parameter.numel() for parameter in subject.at_scale().parameters())
    total = settings.layers * mixer + settings.surrounding_parameters
    evidence: dict[str, JSON] = {"parameters": total, "per_mixer": mixer}
    if settings.baseline_parameters is None:
        return Finding(False, f"{total:,} parameters", evidence)
    ratio = total / settings.baseline_parameters
    evidence |= {"baseline": settings.baseline_parameters, "ratio": round(ratio, 4), "limit": settings.parameter_limit}
    return Finding(ratio > settings.parameter_limit, f"{total:,} parameters, {ratio:.2f} × the baseline's", evidence)
