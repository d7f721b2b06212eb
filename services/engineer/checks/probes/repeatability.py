"""Does the same seed give the same model and the same answer?"""

import torch
from torch import Tensor

from services.engineer.checks.comparing import largest_gap
from services.engineer.checks.report import Finding
from services.engineer.checks.subject import INITIAL, State, Subject

TOLERANCE = 1e-9  # one thread, one machine, the same operations: bitwise equality but for allocation-dependent kernels


def repeatability(subject: Subject) -> Finding:
    """Builds and runs the mixer twice under one seed, forward and backward, in both modes, and compares.

    Cannot see: differences between processes, machines, devices and thread counts, or randomness that begins only
    after many calls.
    """
    inputs = subject.noise(2, 65, subject.width)
    for state in (State(training=True), INITIAL):
        first, second = (_answer_and_gradient(subject, inputs, state) for _ in range(2))
        for what, left, right in zip(("output", "gradient"), first, second, strict=True):
            gap = largest_gap(left, right, TOLERANCE)
            if gap.relative > TOLERANCE:
                return Finding(True, f"two runs under one seed differ in the {what} ({state})", gap.evidence())
    return Finding(False, "two runs under one seed agree")


def _answer_and_gradient(subject: Subject, inputs: Tensor, state: State) -> tuple[Tensor, Tensor]:
    leaf = inputs.clone().requires_grad_()
    output = subject.call(subject.mixer(state), leaf)
    (gradient,) = torch.autograd.grad(output.pow(2).sum(), leaf, allow_unused=True)
    return output.detach(), torch.zeros_like(inputs) if gradient is None else gradient
