"""The program under probe, in the child: how to build it anew, run it in a given state and precision, and compare.

Structure (causality, rows, prefixes) is probed in double precision where possible: rounding then lies nine orders of
magnitude below anything a program could profit from, and needs no calibration. Programs cast by hand
(`x.float()`, `dtype=torch.bfloat16`), so the casts are lifted too, by intercepting torch functions.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor, default_generator, nn
from torch.overrides import TorchFunctionMode

from services.engineer.checks.compare import Gap, largest_gap
from services.engineer.checks.remote import TOLERANCES, State
from services.engineer.checks.report import ArithmeticName, CheckSettings

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
        return func(*args, **kwargs) if kwargs else func(*args)


class _Lifted(_WithoutDropout):
    """Reads every request for a lower precision as a request for double precision, too."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
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


@dataclass(frozen=True)
class Arithmetic:
    """A way to compute, and the relative difference that still counts as rounding in it."""

    name: ArithmeticName
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
            if self.name == "autocast":
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            stack.enter_context(_Lifted() if self.name == "double" else _WithoutDropout())
            yield


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


ARITHMETICS: dict[str, Arithmetic] = {name: Arithmetic(name, tolerance) for name, tolerance in TOLERANCES.items()}
DOUBLE, SINGLE, AUTOCAST = (ARITHMETICS[name] for name in TOLERANCES)


INITIAL = State()


@dataclass
class Subject:
    """A program that loads, and helpers that build and run its mixer.

    Every forward runs on a mixer that was never called before, with a freshly seeded generator: step counters and
    noise do not pass for leaks.
    """

    build: Callable[[int, int, int], nn.Module]  # from width, heads and layer, drawing from torch's generator
    settings: CheckSettings

    @property
    def width(self) -> int:
        """The width of inputs and outputs while probing."""
        return self.settings.probe_width

    @property
    def seed(self) -> int:
        """Where all randomness of the probes begins."""
        return self.settings.seed or 0

    def fresh(self, seed: int | None = None) -> nn.Module:
        """A mixer built anew under `seed`, in single precision and training mode."""
        with seeded(self.seed if seed is None else seed):
            return self.build(self.settings.probe_width, self.settings.probe_heads, 0)

    def at_scale(self, layer: int) -> nn.Module:
        """A mixer of the scale's sizes."""
        with seeded(self.seed):
            return self.build(self.settings.width, self.settings.heads, layer)

    def noise(self, *shape: int, seed: int = 1) -> Tensor:
        """Seeded standard normal values in double precision."""
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    @cached_property
    def exact(self) -> Arithmetic:
        """The most precise arithmetic in which the program runs; the first error when it runs in none."""
        return self._first_that_runs((DOUBLE, SINGLE, AUTOCAST))

    @cached_property
    def plain(self) -> Arithmetic:
        """Single precision, or bf16 autocast for programs that cast by hand and run in nothing else."""
        return self._first_that_runs((SINGLE, AUTOCAST))

    def mixer(self, state: State = INITIAL, arithmetic: Arithmetic | None = None) -> nn.Module:
        """A mixer in that state, always with the same parameters and never called before."""
        mixer = (arithmetic or self.exact).place(self.fresh())
        if state.randomised:
            randomise(mixer, self.seed)
        return mixer.train(state.training)

    def output(self, inputs: Tensor, state: State = INITIAL, arithmetic: Arithmetic | None = None) -> Tensor:
        """The output [batch, length, width] of a mixer in that state, without gradients."""
        arithmetic = arithmetic or self.exact
        with torch.no_grad():
            return self.call(self.mixer(state, arithmetic), inputs, arithmetic)

    def call(self, mixer: nn.Module, inputs: Tensor, arithmetic: Arithmetic | None = None, **options: object) -> Tensor:
        """One forward of a given mixer, and only the first of what it returns."""
        return output_of(self.answer(mixer, inputs, arithmetic, **options))

    def answer(
        self, mixer: nn.Module, inputs: Tensor, arithmetic: Arithmetic | None = None, **options: object
    ) -> object:
        """One forward of a given mixer, and all that it returns."""
        arithmetic = arithmetic or self.exact
        with seeded(self.seed), arithmetic.active():
            return mixer(inputs.to(arithmetic.dtype), **options)

    def runs_in(self, arithmetic: Arithmetic) -> bool:
        """Whether a forward pass runs in that arithmetic."""
        try:
            self._first_that_runs((arithmetic,))
        except Exception:  # noqa: BLE001 - candidate code may raise anything
            return False
        return True

    def _first_that_runs(self, ladder: tuple[Arithmetic, ...]) -> Arithmetic:
        inputs, errors = self.noise(1, 65, self.width), []
        for arithmetic in ladder:
            try:
                if self.output(inputs, INITIAL, arithmetic).isfinite().any():
                    return arithmetic
            except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the first is raised below
                errors.append(error)
        raise errors[0] if errors else ValueError("the output is not finite in any precision")


def output_of(answer: object) -> Tensor:
    """The output tensor of a forward that returns it alone or first in a tuple. Raises TypeError otherwise."""
    first = answer[0] if isinstance(answer, tuple) and answer else answer
    if isinstance(first, Tensor) and first.is_complex():
        raise TypeError("forward returned complex numbers: return their real part, or their absolute value")
    if not isinstance(first, Tensor) or not first.is_floating_point():
        raise TypeError(f"forward must return a real tensor, or a tuple that begins with one, not {_kind(answer)}")
    if first.layout is not torch.strided or first.is_meta:
        raise TypeError("forward must return a dense tensor that holds its values: no sparse one, and none on meta")
    return first


def _kind(answer: object) -> str:
    if isinstance(answer, tuple):
        return f"a tuple that begins with {_kind(answer[0])}" if answer else "an empty tuple"
    return f"a tensor of {answer.dtype}" if isinstance(answer, Tensor) else type(answer).__name__


def accepts(mixer: nn.Module, name: str) -> bool:
    """Whether forward names that argument; being swallowed by **kwargs does not count."""
    return name in inspect.signature(mixer.forward).parameters


def gap_between(left: Tensor, right: Tensor, tolerance: float) -> Gap:
    """The largest difference of two outputs."""
    return largest_gap(left.detach().double().numpy(), right.detach().double().numpy(), tolerance)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs the block with torch's generator at `seed` and puts the generator back afterwards."""
    before = torch.get_rng_state()
    # torch.manual_seed would format the stack at every call, and keep it until a GPU is initialised.
    default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


def randomise(mixer: nn.Module, seed: int) -> None:
    """Moves every parameter by noise of half its own size, at least 0.1.

    Dirac kernels, zero gates and closed paths hide at initialisation what this shows.
    """
    with torch.no_grad():
        for place, parameter in enumerate(mixer.parameters()):
            size = max(0.5 * float(parameter.double().pow(2).mean().sqrt()), 0.1) if parameter.numel() else 0.0
            parameter.add_((size * _noise_of(seed, place, parameter.shape)).to(parameter.dtype))


@lru_cache(maxsize=64)
def _noise_of(seed: int, place: int, shape: torch.Size) -> Tensor:
    """Standard normal values for one parameter; drawing them would take longer than what a small mixer computes."""
    generator = torch.Generator().manual_seed(1000 * seed + 7919 + place)
    return torch.randn(shape, generator=generator, dtype=torch.float64)
