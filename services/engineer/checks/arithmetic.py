"""The precisions in which a program is probed.

Structure (causality, rows, prefixes) is probed in double precision where possible: rounding then lies nine orders of
magnitude below anything a program could profit from, and needs no calibration. Programs cast by hand
(`x.float()`, `dtype=torch.bfloat16`), so the casts are lifted too, by intercepting torch functions.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_LIFTED = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}
_CASTS = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}
_DROPOUTS = {"dropout", "dropout_", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "dropout1d"}


class _WithoutDropout(TorchFunctionMode):
    """Makes every dropout the identity, module or functional call: its noise looks like coupling of rows."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if getattr(func, "__name__", "") in _DROPOUTS:
            return args[0] if args else (kwargs or {})["input"]
        return func(*args, **(kwargs or {}))


class _Lifted(TorchFunctionMode):
    """Reads every request for a lower precision as a request for double precision."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func in _CASTS:
            return torch.Tensor.double(*args)  # type: ignore[arg-type]
        lifted = tuple(_lift(argument) for argument in args)
        return func(*lifted, **{name: _lift(value) for name, value in (kwargs or {}).items()})


def _lift(argument: object) -> object:
    return _LIFTED.get(argument, argument) if type(argument) is torch.dtype else argument


@dataclass(frozen=True)
class Arithmetic:
    """A way to compute, and the relative difference that still counts as rounding in it."""

    name: Literal["double", "single", "autocast"]
    tolerance: float

    @property
    def dtype(self) -> torch.dtype:
        """The precision of parameters and inputs."""
        return torch.float64 if self.name == "double" else torch.float32

    def place(self, mixer: nn.Module) -> nn.Module:
        """Casts the mixer's floating-point parameters and buffers, in place."""
        return mixer.to(self.dtype)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Computes this way inside the block, with dropout off."""
        with ExitStack() as stack:
            if self.name == "double":
                stack.enter_context(_default_dtype(torch.float64))
                stack.enter_context(_Lifted())
            if self.name == "autocast":
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            stack.enter_context(_WithoutDropout())
            yield


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


DOUBLE = Arithmetic("double", 1e-7)
SINGLE = Arithmetic("single", 1e-3)
AUTOCAST = Arithmetic("autocast", 5e-2)
