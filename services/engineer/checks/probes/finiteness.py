"""Does it stay finite?"""

import torch
from torch import Tensor

from services.engineer.checks.arithmetic import AUTOCAST, Arithmetic
from services.engineer.checks.report import JSON, Finding
from services.engineer.checks.subject import Subject, output_of

SHAPE = (2, 70)
LARGE = 1e3


def finiteness(subject: Subject) -> Finding:
    """Feeds large, constant, zero and bf16 inputs and expects finite outputs and finite gradients of everything.

    Parameters are as initialised: after training they may be such that it overflows, which only training shows.
    Cannot see: overflow at other magnitudes, lengths and parameters, or in fp16.
    """
    noise = subject.noise(*SHAPE, subject.width)
    trials: dict[str, tuple[Tensor, Arithmetic]] = {
        f"large inputs ({LARGE:g} × noise)": (LARGE * noise, subject.plain),
        "constant inputs (all one)": (torch.ones_like(noise), subject.plain),
        "constant inputs (all 100)": (torch.full_like(noise, 100.0), subject.plain),
        "zero inputs": (torch.zeros_like(noise), subject.plain),
        "bf16 inputs": (noise.bfloat16(), AUTOCAST),
    }
    for name, (inputs, arithmetic) in trials.items():
        broken = _broken(subject, inputs.to(arithmetic.dtype), arithmetic)
        if broken:
            evidence: dict[str, JSON] = {"inputs": name, "non_finite": broken}
            return Finding(True, f"{name}: not finite in {', '.join(broken[:3])}", evidence)
    return Finding(False, "finite for large, constant, zero and bf16 inputs")


def _broken(subject: Subject, inputs: Tensor, arithmetic: Arithmetic) -> list[str]:
    mixer = arithmetic.place(subject.fresh())
    leaf = inputs.requires_grad_()
    with arithmetic.active():
        output = output_of(mixer(leaf))
    if not output.isfinite().all():
        return ["the output"]
    torch.autograd.backward(output.float().mean())
    named = {"the gradient of the input": leaf.grad}
    named |= {f"the gradient of {name}": parameter.grad for name, parameter in mixer.named_parameters()}
    return [name for name, gradient in named.items() if gradient is not None and not gradient.isfinite().all()]
