"""The program under probe as the host sees it: orders go to the child, arrays come back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from services.engineer.checks.compare import Values
from services.engineer.checks.report import JSON, ArithmeticName, CheckSettings, Finding
from services.sandbox import Child, Message

TOLERANCES: Mapping[ArithmeticName, float] = {"double": 1e-7, "single": 1e-3, "autocast": 5e-2}
"""The relative difference that still counts as rounding."""
LOUD = 8.0


class ProgramRaised(Exception):  # noqa: N818 - an outcome for the candidate
    """The program raised where it should have answered."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message)
        self.message, self.traceback = message[:800], traceback[-2000:]


class ProtocolBroken(Exception):  # noqa: N818 - an outcome for the candidate
    """An answer that an honest guest would not give. Says which."""


@dataclass(frozen=True)
class State:
    """In which state a mixer is probed: parameters as initialised or randomised, in training or evaluation mode."""

    randomised: bool = False
    training: bool = False

    def __str__(self) -> str:
        parameters = "randomised parameters" if self.randomised else "parameters as initialised"
        return f"{parameters}, {'training' if self.training else 'evaluation'} mode"


STATES = tuple(State(randomised, training) for randomised in (True, False) for training in (False, True))


@dataclass(frozen=True)
class Remote:
    """One program in one child, at one layer or a stack of them, and in one arithmetic."""

    child: Child
    settings: CheckSettings
    seed: int
    layers: tuple[int, ...] = (0,)
    arithmetic: ArithmeticName = "double"
    known: dict[tuple[object, ...], Values] = field(default_factory=dict, repr=False, compare=False)

    @property
    def tolerance(self) -> float:
        """What counts as rounding."""
        return TOLERANCES[self.arithmetic]

    @property
    def layer(self) -> int:
        """The layer, or the last one of a stack."""
        return self.layers[-1]

    def at(self, *layers: int) -> "Remote":
        """The same program's mixer of another layer, or those of several, stacked as in the model."""
        return replace(self, layers=layers)

    def computing(self, arithmetic: ArithmeticName) -> "Remote":
        """The same mixer in another arithmetic."""
        return replace(self, arithmetic=arithmetic)

    def noise(self, rows: int, length: int, stream: int = 1) -> Values:
        """Standard normal values [rows, length, width] that the program cannot know before."""
        key = ("noise", rows, length, stream)
        if key not in self.known:
            random = np.random.default_rng([self.seed, stream, rows, length])
            self.known[key] = random.standard_normal((rows, length, self.settings.width))
        return self.known[key].copy()

    async def output(self, inputs: Values, state: State) -> Values:
        """The output of a mixer never called before. Raises ProgramRaised and ProtocolBroken."""
        return (await self.differentiated(inputs, None, state))[0]

    async def reference(self, rows: int, length: int, state: State) -> Values:
        """The output for `noise(rows, length)`, asked once."""
        key = (self.layers, self.arithmetic, rows, length, state)
        if key not in self.known:
            self.known[key] = await self.output(self.noise(rows, length), state)
        return self.known[key]

    async def with_other_ends(self, length: int, state: State, cuts: Sequence[int], stream: int) -> Values:
        """The output for `noise(len(cuts), length)` with other noise from each row's cut on, asked once.

        The other noise is loud in every other pair of rows: what passes a threshold or a maximum at all passes it then.
        """
        key = (self.layers, self.arithmetic, length, state, tuple(cuts), stream)
        if key not in self.known:
            inputs, other = self.noise(len(cuts), length), self.noise(len(cuts), length, stream=40 + stream)
            for row, cut in enumerate(cuts):
                inputs[row, cut:] = other[row, cut:] * (LOUD if (row + stream) // 2 % 2 else 1.0)
            self.known[key] = await self.output(inputs, state)
        return self.known[key]

    async def differentiated(self, inputs: Values, direction: Values | None, state: State) -> tuple[Values, Values]:
        """The output, and the gradient by the inputs of its product with `direction`, where that is given.

        Raises as `output`.
        """
        more = {} if direction is None else {"direction": direction}
        header: dict[str, JSON] = {
            "layers": self.layers,
            "arithmetic": self.arithmetic,
            "randomised": state.randomised,
            "training": state.training,
            "seed": self.seed % (1 << 31),
        }
        answer = await self.ask("forward", header, {"inputs": inputs, **more}, expect="output")
        output = _real(answer, "output")
        gradient = _real(answer, "gradient") if more else output
        if output.shape != inputs.shape:
            raise ProgramRaised(f"the output has shape {output.shape} for an input of shape {inputs.shape}", "")
        if gradient.shape != inputs.shape:
            raise ProtocolBroken("a gradient has not the shape of the input")
        return output, gradient

    async def parameters(self) -> int:
        """How many parameters the layer's mixer has at the scale's sizes, counted on the arrays that come."""
        elements, place, last = 0, 0, False
        while not last:
            answer = await self.ask("parameters", {"layer": self.layer, "place": place}, {}, expect="parameters")
            elements += sum(int(array.size) for array in answer.arrays.values())
            place += len(answer.arrays)
            last = answer.header.get("last") is not False or not answer.arrays
        return elements

    async def claim(self, probe: str) -> Finding:
        """What the child finds with a probe of its own."""
        answer = await self.ask("claim", {"probe": probe}, {}, expect="finding")
        try:
            return Finding.from_json(answer.header)
        except ValueError as error:
            raise ProtocolBroken(str(error)) from error

    async def ask(self, kind: str, header: Mapping[str, JSON], arrays: Mapping[str, Values], *, expect: str) -> Message:
        """One order and its answer. Raises ProgramRaised, ProtocolBroken and the sandbox's errors."""
        await self.child.send(kind, header, arrays)
        answer = await self.child.receive(self.settings.seconds)
        if answer.kind == "raised":
            raise ProgramRaised(str(answer.header.get("message", "")), str(answer.header.get("traceback", "")))
        if answer.kind != expect:
            raise ProtocolBroken(f"{answer.kind[:40]!r} came in answer to {kind!r}")
        return answer


def _real(answer: Message, name: str) -> Values:
    array = answer.arrays.get(name)
    if array is None or array.dtype.kind != "f":
        raise ProtocolBroken(f"an answer lacks its {name}")
    values: Values = array.astype(array.dtype, copy=False)
    return values
