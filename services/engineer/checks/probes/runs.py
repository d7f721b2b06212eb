"""Does it run?"""

import traceback

import torch

from services.engineer.checks.arithmetic import AUTOCAST, Arithmetic
from services.engineer.checks.report import JSON, Finding
from services.engineer.checks.subject import Subject, output_of
from services.engineer.program import explained

SHAPES = ((2, 64), (1, 1), (3, 37), (1, 130))  # (batch, length): whole chunks, a single token, odd, several chunks


def runs(subject: Subject) -> Finding:
    """Builds the mixer and runs it forward and backward at several batch sizes and lengths, under bf16 autocast.

    Autocast is how it will be trained; a program that runs only so, because it casts by hand, is accepted.
    Cannot see: failures at sizes, lengths, devices and option values that it does not try, nor those that come only
    after many calls.
    """
    for batch, length in SHAPES:
        where: dict[str, JSON] = {"batch": batch, "length": length, "precision": AUTOCAST.name}
        try:
            problem = _step(subject, AUTOCAST, batch, length)
        except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the error is the finding
            return Finding(True, explained(error)[:800], {**where, "traceback": _tail(error)})
        if problem:
            return Finding(True, problem, where)
    return Finding(False, "builds and runs forward and backward", {"precision": subject.exact.name})


def _step(subject: Subject, arithmetic: Arithmetic, batch: int, length: int) -> str | None:
    mixer = arithmetic.place(subject.fresh())
    inputs = subject.noise(batch, length, subject.width).to(arithmetic.dtype).requires_grad_()
    with arithmetic.active():
        output = output_of(mixer(inputs))
    if output.shape != inputs.shape:
        return f"the output has shape {tuple(output.shape)} for an input of shape {tuple(inputs.shape)}"
    if not output.requires_grad:
        return "the output is cut off from inputs and parameters: nothing can be trained"
    torch.autograd.backward(output.float().pow(2).mean())
    return None if torch.isfinite(output).all() else "the output is not finite for standard normal inputs"


def _tail(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-2000:]
