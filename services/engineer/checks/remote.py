"""The host's interface to a program that is probed in a child."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from services.engineer.checks.compare import Values, other_shape
from services.engineer.checks.report import JSON, ArithmeticName, CheckSettings, Finding
from services.sandbox import Child, ChildTimeout, Message

TOLERANCES: Mapping[ArithmeticName, float] = {"double": 1e-7, "single": 1e-3, "autocast": 5e-2}
"""The relative difference that counts as rounding."""
AMPLIFICATION = 8.0
IDLE_SHARE = 0.01
"""A silent child that uses less than this share of a processor is stuck; with more, the machine is busy."""
MAX_WAITS = 12
TENSORS = 3500
"""Limit on the parameter tensors of all mixers: with two moments and a counter each, and those of the rest of a model,
they fit into one message (`Bounds.arrays`), as the state of a training must."""


ALONE = "which gets its hidden states alone and nothing that other layers keep, "
"""Said of an error in a later layer: it may expect what an earlier one left in a shared object."""


class ProgramRaised(Exception):  # noqa: N818 - an outcome for the candidate
    """The program raised an exception."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message)
        self.message, self.traceback = message[:900], traceback[-2000:]


class ProtocolBroken(Exception):  # noqa: N818 - an outcome for the candidate
    """The child sent an answer that violates the protocol."""


@dataclass(frozen=True)
class State:
    """The state of a mixer: parameters as initialised or randomised, in training or evaluation mode."""

    randomised: bool = False
    training: bool = False

    @property
    def mode(self) -> str:
        return "training" if self.training else "evaluation"

    def __str__(self) -> str:
        return f"{'randomised parameters' if self.randomised else 'parameters as initialised'}, {self.mode} mode"


NOT_FINITE = "the output is not finite in any precision: torch.empty sets no values, an exponential may be too large"
STATES = tuple(State(randomised, training) for randomised in (True, False) for training in (False, True))


@dataclass(frozen=True)
class Remote:
    """One program in one child, for one layer or a stack of layers, in one arithmetic."""

    child: Child
    settings: CheckSettings
    seed: int
    layers: tuple[int, ...] = (0,)
    arithmetic: ArithmeticName = "double"
    cache: dict[tuple[object, ...], Values] = field(default_factory=dict, repr=False, compare=False)

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.arithmetic]

    @property
    def layer(self) -> int:
        """The layer, or the last one of a stack."""
        return self.layers[-1]

    def at(self, *layers: int) -> "Remote":
        """The same program at another layer, or at several, stacked as in the model."""
        return replace(self, layers=layers)

    def noise(self, rows: int, length: int, stream: int = 1) -> Values:
        """Standard normal values [rows, length, width] that the program cannot predict."""
        key = ("noise", rows, length, stream)
        if key not in self.cache:
            random = np.random.default_rng([self.seed, stream, rows, length])
            self.cache[key] = random.standard_normal((rows, length, self.settings.width))
        return self.cache[key].copy()

    async def output(self, inputs: Values, state: State) -> Values:
        """The output of a newly built mixer. Raises ProgramRaised and ProtocolBroken."""
        return (await self.output_and_gradient(inputs, None, state))[0]

    async def reference(self, rows: int, length: int, state: State) -> Values:
        """The output for `noise(rows, length)`, cached."""
        key = (self.layers, self.arithmetic, rows, length, state)
        if key not in self.cache:
            self.cache[key] = await self.output(self.noise(rows, length), state)
        return self.cache[key]

    async def output_with_other_ends(self, length: int, state: State, cuts: Sequence[int], stream: int) -> Values:
        """The output for `noise(len(cuts), length)` with other noise from each row's cut on, cached.

        The other noise is amplified in every other pair of rows, to exceed any threshold or running maximum.
        """
        key = (self.layers, self.arithmetic, length, state, tuple(cuts), stream)
        if key not in self.cache:
            inputs, noise = self.noise(len(cuts), length), self.noise(len(cuts), length, stream=40 + stream)
            for row, cut in enumerate(cuts):
                inputs[row, cut:] = noise[row, cut:] * (AMPLIFICATION if (row + stream) // 2 % 2 else 1.0)
            self.cache[key] = await self.output(inputs, state)
        return self.cache[key]

    async def output_and_gradient(
        self, inputs: Values, direction: Values | None, state: State
    ) -> tuple[Values, Values]:
        """The output, and the gradient of its product with any `direction`. Raises ProgramRaised and ProtocolBroken."""
        arrays = {"inputs": inputs} if direction is None else {"inputs": inputs, "direction": direction}
        rows, length, _ = inputs.shape
        longer = ": a program must accept inputs of any length" if length > self.settings.length else ""
        layers = f"layer {', '.join(map(str, self.layers))}, " if any(self.layers) else ""
        layers += ALONE if layers and len(self.layers) == 1 else ""
        where = f"{layers}batch {rows}, length {length}{longer}"
        try:
            answer = await self.ask("forward", self._header(state), arrays, expect="output")
        except ProgramRaised as raised:
            raise ProgramRaised(f"{raised.message} ({where})", raised.traceback) from raised
        output = _floats(answer, "output")
        gradient = output if direction is None else _floats(answer, "gradient")
        if output.shape != inputs.shape:
            raise ProgramRaised(f"{other_shape(output.shape, inputs.shape)} ({where})", "")
        if gradient.shape != inputs.shape:
            raise ProtocolBroken("a gradient does not have the shape of the input")
        return output, gradient

    async def place(self, inputs: Values, part: int | None, state: State) -> str:
        """The program's line whose results for the first `part` positions depend on what follows, with words before it.

        Without a part, the line that draws random numbers. Empty if none is found, and in training mode, where noise
        has the shape of the input.
        """
        if state.training:
            return ""
        request: dict[str, JSON] = {**self._header(state), **({} if part is None else {"part": part})}
        try:
            line = (await self.ask("place", request, {"inputs": inputs}, expect="place")).header.get("line")
        except ProgramRaised:
            return ""
        return f", first seen in {line[:200]}" if isinstance(line, str) else ""

    def _header(self, state: State) -> dict[str, JSON]:
        return {
            "layers": self.layers,
            "arithmetic": self.arithmetic,
            "randomised": state.randomised,
            "training": state.training,
            "seed": self.seed % (1 << 31),
        }

    async def supported(self, choices: Sequence[ArithmeticName] = ("double", "single", "autocast")) -> "Remote":
        """The program in the first arithmetic in which it runs. If there is none, the first error is raised."""
        first_error: ProgramRaised | None = None
        for name in choices:
            trial = replace(self, arithmetic=name)
            try:
                if np.isfinite(await trial.output(trial.noise(1, 65), State())).any():
                    return trial
            except ProgramRaised as raised:
                first_error = first_error or raised
        raise first_error or ProgramRaised(NOT_FINITE, "")

    async def parameters(self) -> list[tuple[str, tuple[int, ...]]]:
        """The names and shapes of the layer's parameters at the scale's sizes, unless there are more than TENSORS."""
        parameters, last = list[tuple[str, tuple[int, ...]]](), False
        while not last and len(parameters) <= TENSORS:
            request = {"layer": self.layer, "offset": len(parameters)}
            answer = await self.ask("parameters", request, {}, expect="parameters")
            parameters += [(name.removeprefix("0."), array.shape) for name, array in answer.arrays.items()]
            last = answer.header.get("last") is not False or not answer.arrays
        return parameters

    async def run_probe(self, probe: str) -> Finding:
        """The finding of one of `child_probes` about the layer."""
        answer = await self.ask("probe", {"probe": probe, "layer": self.layer}, {}, expect="finding")
        try:
            return Finding.from_json(answer.header)
        except ValueError as error:
            raise ProtocolBroken(str(error)) from error

    async def ask(self, kind: str, header: Mapping[str, JSON], arrays: Mapping[str, Values], *, expect: str) -> Message:
        """Send a request and return its answer. Raises ProgramRaised, ProtocolBroken and ChildError."""
        await self.child.send(kind, header, arrays)
        answer = await self._receive()
        if answer.kind == "raised":
            raise ProgramRaised(str(answer.header.get("message", "")), str(answer.header.get("traceback", "")))
        if answer.kind != expect:
            raise ProtocolBroken(f"the answer to {kind!r} is {answer.kind[:40]!r}")
        return answer

    async def _receive(self) -> Message:
        """The next answer, within `settings.seconds`, or a few times that while the child is computing."""
        waits = 0
        while True:
            waits, start = waits + 1, self.child.processor_seconds()
            try:
                return await self.child.receive(self.settings.seconds)
            except ChildTimeout as late:
                used = self.child.processor_seconds() - start
                if waits == MAX_WAITS or used < IDLE_SHARE * self.settings.seconds:
                    raise self.child.fault(late) from None


def _floats(answer: Message, name: str) -> Values:
    array = answer.arrays.get(name)
    if array is None or array.dtype.kind != "f":
        raise ProtocolBroken(f"an answer has no array {name} of floats")
    values: Values = array.astype(array.dtype, copy=False)
    return values
