"""Does it ask for a loss of its own?"""

from collections.abc import Iterator

from torch import Tensor, nn

from services.engineer.checks.report import Finding
from services.engineer.checks.subject import State, Subject

SHAPE = (2, 65)
NESTED = 3  # how deep to look into containers


def auxiliary(subject: Subject) -> Finding:
    """Looks for auxiliary losses: tensors in the second output, or scalars with a gradient kept on a module.

    Training ignores them, so a program that counts on one is not the model that its author thinks it is.
    Cannot see: losses added through gradient hooks, or kept in globals and closures.
    """
    mixer = subject.mixer(State(training=True))
    answer = subject.answer(mixer, subject.noise(*SHAPE, subject.width))
    second = answer[1] if isinstance(answer, tuple | list) and len(answer) > 1 else None
    found = [f"second output, shape {list(tensor.shape)}" for tensor in _tensors(second)]
    found += [f"attribute {name}" for name in _kept(mixer)]
    if found:
        return Finding(True, f"hidden auxiliary loss, which training ignores: {found[0]}", {"found": found[:20]})
    return Finding(False, "no auxiliary loss")


def _kept(mixer: nn.Module) -> Iterator[str]:
    for path, module in mixer.named_modules():
        for name, value in vars(module).items():
            if any(tensor.numel() == 1 and tensor.grad_fn is not None for tensor in _tensors(value)):
                yield f"{path}.{name}".lstrip(".")


def _tensors(value: object, depth: int = NESTED) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part, depth - 1)
