"""Does an output look into the future?"""

import torch
from torch import Tensor

from services.engineer.checks.comparing import gaps, number, size_of
from services.engineer.checks.report import JSON, Finding
from services.engineer.checks.subject import EVALUATED, STATES, State, Subject

LENGTHS = (97, 160)  # no multiple of any chunk, and whole chunks of 16 and 32
LONG = 545  # programs switch to another path for long inputs
CUTS = (1, 2, 7, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 80, 95, 96, 128, 129, 159, 255, 256, 400, 544)
LOUD = 8.0  # every other perturbation is loud: what passes a threshold or a maximum at all passes it then


def causality(subject: Subject) -> Finding:
    """Replaces everything from a position on by other noise, and expects all earlier outputs unchanged.

    Positions lie at and beside chunk edges; lengths are odd, whole and long; parameters as initialised and randomised;
    training and evaluation mode. Then gradients of earlier outputs by later inputs, which show leaks too small to
    measure otherwise, where the finite noise shows those that have no gradient (medians, thresholds).
    Cannot see: leaks that need particular tokens or values, more than 545 positions, or many calls to begin.
    """
    for state in STATES:
        for length in LENGTHS:
            finding = _perturbed(subject, state, length)
            if finding:
                return finding
    for state in EVALUATED:
        finding = _differentiated(subject, state, LENGTHS[0])
        if finding:
            return finding
    return _perturbed(subject, EVALUATED[1], LONG, few=True) or Finding(False, "no output depends on a later input")


def _perturbed(subject: Subject, state: State, length: int, few: bool = False) -> Finding | None:
    cuts = [cut for cut in CUTS if cut < length][-4 if few else 0 :]
    future = subject.noise(len(cuts), length, subject.width, seed=2)
    same = subject.noise(1, length, subject.width).repeat(len(cuts) + 2, 1, 1)
    inputs = same.clone()
    for row, cut in enumerate(cuts):
        inputs[row + 2, cut:] = future[row, cut:] * (LOUD if row % 2 else 1.0)
    output = subject.output(inputs, state)
    noisy = bool((output[0] != output[1]).any())  # it draws noise of its own: compare under the same draws
    reference = subject.output(same, state) if noisy else output[:1].expand_as(output)
    for row, cut in enumerate(cuts, start=2):
        before = reference[row, :cut]
        size = max(size_of(before), 1e-6 * size_of(reference[row]))
        leak = gaps(before, output[row, :cut]).amax(dim=-1) / size
        if float(leak.max()) > subject.exact.tolerance:
            return _seen("changes with", leak, cut, state, length, subject.exact.tolerance)
    return None


def _differentiated(subject: Subject, state: State, length: int) -> Finding | None:
    cuts = [cut for cut in CUTS if cut < length]
    inputs = subject.noise(1, length, subject.width).repeat(len(cuts), 1, 1).requires_grad_()
    output = subject.call(subject.mixer(state), inputs)
    past = torch.arange(length) < torch.tensor(cuts)[:, None]
    direction = subject.noise(1, length, subject.width, seed=3).to(output.dtype)
    loss = torch.where(past[:, :, None] & output.isfinite(), output * direction, 0.0).sum()
    (gradient,) = torch.autograd.grad(loss, inputs, allow_unused=True)
    return None if gradient is None else _future_gradient(gradient.detach(), cuts, state, subject.exact.tolerance)


def _future_gradient(gradient: Tensor, cuts: list[int], state: State, tolerance: float) -> Finding | None:
    for row, cut in enumerate(cuts):
        future = gradient[row, cut:].nan_to_num(0.0, 0.0, 0.0).abs().amax(dim=-1)
        leak = future / size_of(gradient[row, :cut])
        if float(leak.max()) > tolerance:
            found = _seen("has a gradient from", leak, cut, state, gradient.shape[1], tolerance)
            return Finding(True, found.message, {**found.evidence, "position": cut + int(leak.argmax())})
    return None


def _seen(how: str, leak: Tensor, cut: int, state: State, length: int, tolerance: float) -> Finding:
    affected = (leak > tolerance).nonzero().flatten()
    evidence: dict[str, JSON] = {
        "length": length,
        "first_future_position": cut,
        "position": int(leak.argmax()),
        "positions_affected": int(affected.numel()),
        "relative_difference": number(float(leak.max())),
        "parameters": "randomised" if state.randomised else "initial",
        "mode": "training" if state.training else "evaluation",
    }
    return Finding(True, f"an output before position {cut} {how} the input from {cut} on ({state})", evidence)
