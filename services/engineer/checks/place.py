"""The line of a program whose results depend on what follows them, found by comparing an input with a prefix of it, and
the one that draws random numbers."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress

import torch
from torch import Tensor

from services.engineer.checks.metering import Operations, tensors_of
from services.engineer.program import current_line

_Key = tuple[str, str, int]
_WITHOUT_VALUES = ("clone", "empty", "new_empty", "view", "_unsafe_view")
"""Beginnings of the names of operations that compute none; whether a reshape copies may depend on the length."""


class _Results(Operations):
    """Reduces each result to its shape, its product with fixed random numbers, and its norm.

    A result is known by its line, its operation, and how often that ran before. Beside `of_prefix`, those of a run on
    the input's first `part` positions, only these positions of a result count.
    """

    def __init__(self, part: int, total: int = 0, tolerance: float = 0, of_prefix: "_Results | None" = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.results: dict[_Key, tuple[torch.Size, float, float]] = {}
        self.first_line: str | None = None
        self._sizes, self._tolerance, self._of_prefix = (part, total), tolerance, of_prefix
        self._counts = Counter[tuple[str, str]]()

    def run(self, operation: torch._ops.OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        result = operation(*args, **kwargs)
        name = operation._overloadpacket._qualified_op_name.partition("::")[2]
        if self.first_line or name.startswith(_WITHOUT_VALUES) or not (line := current_line()):
            return result
        self._counts[line, name] += 1
        for tensor in tensors_of((result,))[:1]:
            self._note((line, name, self._counts[line, name]), tensor.detach())
        return result

    def _note(self, key: _Key, tensor: Tensor) -> None:
        if self._of_prefix is None and self._sizes[0] in tensor.shape:
            self.results[key] = (tensor.shape, *_reduced(tensor))
        elif self._of_prefix and key in self._of_prefix.results:
            shape, product, norm = self._of_prefix.results[key]
            if len(shape) != tensor.dim() or shape == tensor.shape:
                return
            for dimension, sizes in enumerate(zip(shape, tensor.shape, strict=True)):
                if sizes == self._sizes:
                    tensor = tensor.narrow(dimension, 0, sizes[0])
            if tensor.shape == shape and not abs(_reduced(tensor)[0] - product) <= self._tolerance * max(norm, 1e-12):
                self.first_line = key[0]


def _reduced(tensor: Tensor) -> tuple[float, float]:
    values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    values = torch.nan_to_num(values.double(), posinf=0.0, neginf=0.0)
    weights = torch.randn(values.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return float((values * weights).sum()), float(values.norm())


class Draws(Operations):
    """Notes the first line that draws random numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.first_line: str | None = None

    def run(self, operation: torch._ops.OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        if torch.Tag.nondeterministic_seeded in operation.tags:
            self.first_line = self.first_line or current_line()
        return operation(*args, **kwargs)


def line_of_length(forward: Callable[[Tensor], object], inputs: Tensor, part: int, tolerance: float) -> str | None:
    """The program's first line with other results for the first `part` positions of `inputs` where more follow.

    Compares what has the length in its shape; a line that reduces the length is thus found where its result is used.
    """
    of_prefix = _Results(part)
    whole = _Results(part, inputs.shape[1], tolerance, of_prefix)
    with suppress(Exception), torch.no_grad():
        for results, values in ((of_prefix, inputs[:, :part]), (whole, inputs)):
            with results:
                forward(values)
    return whole.first_line
