"""The program under probe: how to build it anew, run it in a given state, and never let one run disturb the next."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from services.engineer.checks.arithmetic import AUTOCAST, DOUBLE, SINGLE, Arithmetic
from services.engineer.checks.settings import CheckSettings


@dataclass(frozen=True)
class State:
    """In which state a mixer is probed: parameters as initialised or randomised, in training or evaluation mode."""

    randomised: bool = False
    training: bool = False

    def __str__(self) -> str:
        parameters = "randomised parameters" if self.randomised else "parameters as initialised"
        return f"{parameters}, {'training' if self.training else 'evaluation'} mode"


INITIAL = State()
STATES = tuple(State(randomised, training) for randomised in (False, True) for training in (False, True))
EVALUATED = (State(), State(randomised=True))


@dataclass
class Subject:
    """A program that loads, and helpers that build and run its mixer.

    Every forward runs on a mixer that was never called before, with a freshly seeded generator: step counters and
    noise do not pass for leaks.
    """

    build: Callable[[int, int], nn.Module]  # from width and heads, drawing from torch's generator
    settings: CheckSettings

    @property
    def width(self) -> int:
        """The width of inputs and outputs while probing."""
        return self.settings.probe_width

    @property
    def seed(self) -> int:
        """Where all randomness of the probes begins."""
        return self.settings.seed

    def fresh(self, seed: int | None = None) -> nn.Module:
        """A mixer built anew under `seed`, in single precision and training mode."""
        with seeded(self.seed if seed is None else seed):
            return self.build(self.settings.probe_width, self.settings.probe_heads)

    def at_scale(self) -> nn.Module:
        """A mixer of the scale's sizes, for counting."""
        with seeded(self.seed):
            return self.build(self.settings.width, self.settings.heads)

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
    first = answer[0] if isinstance(answer, tuple | list) and answer else answer
    if not isinstance(first, Tensor):
        raise TypeError(f"forward must return a tensor, or a tuple that starts with one, not {type(answer).__name__}")
    if first.is_complex():
        raise TypeError("forward returned complex numbers: return their real part, or their absolute value")
    return first


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs the block with torch's generator at `seed` and puts the generator back afterwards."""
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


def randomise(mixer: nn.Module, seed: int) -> None:
    """Moves every parameter by noise of half its own size, at least 0.1.

    Dirac kernels, zero gates and closed paths hide at initialisation what this shows.
    """
    generator = torch.Generator().manual_seed(seed + 7919)
    with torch.no_grad():
        for parameter in mixer.parameters():
            size = max(0.5 * float(parameter.double().pow(2).mean().sqrt()), 0.1) if parameter.numel() else 0.0
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((size * noise).to(parameter.dtype))
