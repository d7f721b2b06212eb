"""The probed program in the child: builds it and runs it in a given state and precision.

Probes use double precision where possible: rounding is then nine orders of magnitude below any useful leak, and
tolerances need no calibration. Explicit casts in programs (`x.float()`, `dtype=torch.bfloat16`) are replaced by casts
to double, by intercepting torch functions.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache, wraps
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, default_generator, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from services.engineer.checks.remote import NOT_FINITE, TOLERANCES, State
from services.engineer.checks.report import ArithmeticName, CheckSettings
from services.engineer.training.model import cast_floats

Args = tuple[object, ...]
Kwargs = Mapping[str, object]
_LIFTED = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}
_CASTS = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}
_DROPOUTS = {"dropout", "dropout_", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "dropout1d"}
_WRITTEN = 0.01
"""Relative change of a parameter from which on it counts as written."""


class _WithoutDropout(TorchFunctionMode):
    """Turns dropout off, in modules and functional calls: its noise looks like a dependence between rows."""

    def __torch_function__(
        self, func: Callable[..., object], types: object, args: Args = (), kwargs: Kwargs | None = None
    ) -> object:
        if getattr(func, "__name__", "") in _DROPOUTS:
            return args[0] if args else (kwargs or {})["input"]
        return func(*args, **kwargs) if kwargs else func(*args)


class _Lifted(_WithoutDropout):
    """Replaces every lower precision by double precision, too."""

    def __torch_function__(
        self, func: Callable[..., object], types: object, args: Args = (), kwargs: Kwargs | None = None
    ) -> object:
        if func in _CASTS:
            return torch.Tensor.double(*args)  # type: ignore[arg-type]
        for argument in args:
            if type(argument) is torch.dtype:
                args = tuple(map(_lift, args))
                break
        if kwargs:
            kwargs = {name: _lift(value) for name, value in kwargs.items()}
        return super().__torch_function__(func, types, args, kwargs)


def _lift(argument: object) -> object:
    return _LIFTED.get(argument, argument) if type(argument) is torch.dtype else argument


_CHECKPOINT = torch.utils.checkpoint.checkpoint


@wraps(_CHECKPOINT)  # a program must not tell a check from a training by its name
def checkpoint_in_modes(function: Callable[..., object], *args: object, **options: Any) -> object:
    """torch's checkpoint, but a repetition in a backward pass, which has no modes, runs in those of the forward."""
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]

    def within(*inputs: object, **keywords: object) -> object:
        with ExitStack() as stack:
            for mode in () if _get_current_function_mode_stack() else modes:  # type: ignore[no-untyped-call]
                stack.enter_context(mode)
            return function(*inputs, **keywords)

    return _CHECKPOINT(within, *args, **options)


@dataclass(frozen=True)
class Arithmetic:
    """A precision to compute in, and the relative difference that counts as rounding in it."""

    name: ArithmeticName
    tolerance: float

    @property
    def dtype(self) -> torch.dtype:
        """The precision of parameters and inputs."""
        return torch.float64 if self.name == "double" else torch.float32

    def place(self, mixer: nn.Module) -> nn.Module:
        """Casts the mixer's floating-point and complex parameters and buffers, in place."""
        return cast_floats(mixer, self.dtype)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Computes in this precision inside the block, with dropout off."""
        autocast = torch.autocast("cpu", torch.bfloat16) if self.name == "autocast" else nullcontext()
        with autocast, self._default_dtype(), _Lifted() if self.name == "double" else _WithoutDropout():
            yield

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss, in the precision of the forward, of which checkpoints repeat parts."""
        with self._default_dtype():
            torch.autograd.backward(loss)

    @contextmanager
    def _default_dtype(self) -> Iterator[None]:
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64 if self.name == "double" else default)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


ARITHMETICS: dict[str, Arithmetic] = {name: Arithmetic(name, tolerance) for name, tolerance in TOLERANCES.items()}
DOUBLE, SINGLE, AUTOCAST = (ARITHMETICS[name] for name in TOLERANCES)


INITIAL = State()
GRADIENT_SHAPE = (2, 70)  # batch, length


@dataclass
class Subject:
    """Builds and runs a program's mixer.

    Every forward runs on a newly built mixer with a seeded generator, so that step counters and noise are not taken for
    leaks.
    """

    build: Callable[[int, int, int, ArithmeticName], nn.Module]
    """Takes width, heads, layer and the arithmetic of the forwards; draws from torch's generator."""
    settings: CheckSettings
    layer: int = 0

    @property
    def width(self) -> int:
        return self.sizes[0]

    @cached_property
    def sizes(self) -> tuple[int, int]:
        """Width and heads: the scale's for programs that cannot be built at the probes' smaller ones, else these."""
        small = (self.settings.probe_width, self.settings.probe_heads)
        sizes = (self.settings.width, self.settings.heads)
        return small if self._builds(small) or not self._builds(sizes) else sizes

    def _builds(self, sizes: tuple[int, int]) -> bool:
        try:
            self.build(*sizes, self.layer, SINGLE.name)
        except Exception:  # noqa: BLE001 - candidate code may raise anything; `fresh` raises it again
            return False
        return True

    @property
    def seed(self) -> int:
        """The seed of all random numbers."""
        return self.settings.seed or 0

    def fresh(self, arithmetic: Arithmetic, seed: int | None = None) -> nn.Module:
        """A new mixer in training mode."""
        width, heads = self.sizes  # beforehand, as it may build mixers
        with seeded(self.seed if seed is None else seed):
            return arithmetic.place(self.build(width, heads, self.layer, arithmetic.name))

    def at_scale(self, layer: int, arithmetic: Arithmetic) -> nn.Module:
        """A new mixer of the scale's sizes."""
        with seeded(self.seed):
            return arithmetic.place(self.build(self.settings.width, self.settings.heads, layer, arithmetic.name))

    def noise(self, *shape: int, seed: int = 1) -> Tensor:
        """Seeded standard normal values in double precision."""
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    @cached_property
    def exact(self) -> Arithmetic:
        """The most precise arithmetic in which the program runs. If there is none, the first error is raised."""
        return self._first_that_runs((DOUBLE, SINGLE, AUTOCAST))

    @cached_property
    def plain(self) -> Arithmetic:
        """Single precision, or bf16 autocast for programs that run only there."""
        return self._first_that_runs((SINGLE, AUTOCAST))

    def mixer(self, state: State = INITIAL, arithmetic: Arithmetic | None = None) -> nn.Module:
        """A new mixer in that state, always with the same parameters."""
        mixer = self.fresh(arithmetic or self.exact)
        if state.randomised:
            randomise(mixer, self.seed)
        mixer.train(state.training)  # an override may return nothing
        return mixer

    def output(self, inputs: Tensor, state: State = INITIAL, arithmetic: Arithmetic | None = None) -> Tensor:
        """The output [batch, length, width] of a new mixer in that state, without gradients."""
        arithmetic = arithmetic or self.exact
        with torch.no_grad():
            return self.call(self.mixer(state, arithmetic), inputs, arithmetic)

    def call(self, mixer: nn.Module, inputs: Tensor, arithmetic: Arithmetic | None = None, **options: object) -> Tensor:
        """The output of one forward of a mixer."""
        return output_of(self.result(mixer, inputs, arithmetic, **options))

    def result(
        self, mixer: nn.Module, inputs: Tensor, arithmetic: Arithmetic | None = None, **options: object
    ) -> object:
        """Everything that one forward of a mixer returns."""
        arithmetic = arithmetic or self.exact
        with seeded(self.seed), arithmetic.active():
            return mixer(inputs.to(arithmetic.dtype), **options)

    def runs_in(self, arithmetic: Arithmetic) -> bool:
        """Whether a forward runs in that arithmetic."""
        try:
            self._first_that_runs((arithmetic,))
        except Exception:  # noqa: BLE001 - candidate code may raise anything
            return False
        return True

    def _first_that_runs(self, choices: tuple[Arithmetic, ...]) -> Arithmetic:
        inputs, errors = self.noise(1, 65, self.width), []
        for arithmetic in choices:
            try:
                if self.output(inputs, INITIAL, arithmetic).isfinite().any():
                    return arithmetic
            except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the first is raised below
                errors.append(error)
        raise errors[0] if errors else ValueError(NOT_FINITE)


def without_gradient(subject: Subject, mixer: nn.Module) -> set[str]:
    """Names of trainable parameters without a gradient of a generic loss on noise, after one forward and backward."""
    mixer.zero_grad(set_to_none=True)
    inputs = subject.noise(*GRADIENT_SHAPE, subject.width).requires_grad_()  # as in training
    output = subject.call(mixer, inputs)
    direction = subject.noise(*GRADIENT_SHAPE, subject.width, seed=4)
    if output.requires_grad:  # else it depends on no parameter
        subject.exact.backward((output * direction.to(output.dtype) + output.pow(2)).sum())
    return {
        name
        for name, parameter in mixer.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().sum())
    }


def without_gradient_after_step(subject: Subject) -> set[str]:
    """Parameters without a gradient, both at initialisation and after one step along the gradient's sign.

    A zero-initialised projection blocks the gradient of everything before it at first, but not after one step.
    """
    mixer = subject.mixer(State(training=True))
    first = without_gradient(subject, mixer)
    with torch.no_grad():
        for parameter in mixer.parameters():
            if parameter.grad is not None:
                parameter.sub_(1e-2 * parameter.grad.sgn())
    return first & without_gradient(subject, mixer) if first else first


def parameters_of(mixer: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters."""
    return {name: values.detach().to(torch.complex128, copy=True) for name, values in mixer.named_parameters()}


def written_since(before: Mapping[str, Tensor], mixer: nn.Module) -> str | None:
    """The first parameter that was written; the rounding of one that is normalised in place again is less."""
    after = parameters_of(mixer)
    changed = [name for name in after if (after[name] - before[name]).norm() > _WRITTEN * before[name].norm()]
    return next(iter(changed), None)


def shapes_of(mixer: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of parameters and buffers by name."""
    return {name: tuple(tensor.shape) for name, tensor in (*mixer.named_parameters(), *mixer.named_buffers())}


def output_of(result: object) -> Tensor:
    """The output tensor of a forward that returns it alone or first in a tuple or list. Raises TypeError otherwise."""
    first = result[0] if isinstance(result, tuple | list) and result else result
    if isinstance(first, Tensor) and first.is_complex():
        raise TypeError("forward returned complex numbers: return their real part, or their absolute value")
    if not isinstance(first, Tensor) or not first.is_floating_point():
        raise TypeError(f"forward must return a real tensor, or a tuple that begins with one, not {_kind(result)}")
    if first.layout is not torch.strided or first.is_meta:
        raise TypeError("forward must return a dense tensor on a real device, neither sparse nor on meta")
    return first


def _kind(result: object) -> str:
    if isinstance(result, tuple):
        return f"a tuple that begins with {_kind(result[0])}" if result else "an empty tuple"
    return f"a tensor of {result.dtype}" if isinstance(result, Tensor) else type(result).__name__


def accepts(mixer: nn.Module, name: str) -> bool:
    """Whether forward has a parameter of that name; **kwargs does not count."""
    return name in inspect.signature(mixer.forward).parameters


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's generator inside the block and restores its state afterwards."""
    before = torch.get_rng_state()
    # torch.manual_seed would also format the stack and keep it until a GPU is initialised.
    default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


def randomise(mixer: nn.Module, seed: int) -> None:
    """Adds noise to every parameter, of half the parameter's own size but at least 0.1.

    Identity convolutions and zero gates can hide a path at initialisation. Integers are indices, which stay; a mask's
    infinities stay too, and do not count for its size: outputs that are not finite would agree with any others.
    """
    with torch.no_grad():
        for index, parameter in enumerate(mixer.parameters()):
            values = torch.view_as_real(parameter) if parameter.is_complex() else parameter
            if values.is_floating_point():
                finite = torch.where(values.isfinite(), values, 0.0)
                size = max(0.5 * float(finite.double().pow(2).mean().sqrt()), 0.1) if values.numel() else 0.0
                values.add_((size * _parameter_noise(seed, index, values.shape)).to(values.dtype))


@lru_cache(maxsize=64)
def _parameter_noise(seed: int, index: int, shape: torch.Size) -> Tensor:
    """Standard normal values for one parameter, cached since drawing them takes longer than a small mixer's forward."""
    generator = torch.Generator().manual_seed(1000 * seed + 7919 + index)
    return torch.randn(shape, generator=generator, dtype=torch.float64)
