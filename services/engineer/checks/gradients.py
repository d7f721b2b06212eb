"""Which parameters a loss reaches."""

import torch
from torch import nn

from services.engineer.checks.subject import State, Subject

INPUTS = (2, 70)  # batch and length


def unreached(subject: Subject, mixer: nn.Module) -> set[str]:
    """Names of trainable parameters without any gradient of a generic loss on noise. Runs one forward and backward."""
    mixer.zero_grad(set_to_none=True)
    inputs = subject.noise(*INPUTS, subject.width)
    output = subject.call(mixer, inputs)
    direction = subject.noise(*INPUTS, subject.width, seed=4)
    torch.autograd.backward((output * direction.to(output.dtype) + output.pow(2)).sum())
    return {
        name
        for name, parameter in mixer.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().sum())
    }


def trainable(mixer: nn.Module) -> set[str]:
    """Names of the parameters that ask for gradients."""
    return {name for name, parameter in mixer.named_parameters() if parameter.requires_grad}


def unreached_after_a_step(subject: Subject) -> set[str]:
    """Like `unreached` at initialisation and still so after one step along the gradient's sign.

    A zero-initialised projection keeps everything before it without gradient at first, but not after one step.
    """
    mixer = subject.mixer(State(training=True))
    first = unreached(subject, mixer)
    with torch.no_grad():
        for parameter in mixer.parameters():
            if parameter.grad is not None:
                parameter.sub_(1e-2 * parameter.grad.sign())
    return first & unreached(subject, mixer) if first else first
