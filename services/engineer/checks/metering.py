"""What a mixer takes, without a clock: FLOPs, bytes moved, the largest tensor and peak memory of a forward and a
backward; memory of buffers; numbers of torch's generator. And the line where numbers become infinite."""

import math
import time
import weakref
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from services.engineer.checks.compare import exponent, number
from services.engineer.checks.remote import State
from services.engineer.checks.report import JSON, Finding
from services.engineer.checks.subject import Subject, seeded
from services.engineer.program import current_line, line_of_backward


@dataclass
class Cost:
    """The cost of one forward, or of a forward and a backward."""

    flops: int = 0  # of matrix products, convolutions and attention only
    bytes_moved: int = 0
    largest_tensor: int = 0  # bytes
    peak_memory: int = 0  # bytes that were allocated and alive at the same time


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation that runs inside the block."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False, since torch would otherwise import its compiler (1.3 s) at the first operation."""
        return False

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        return self.run(func, args, kwargs or {})

    @abstractmethod
    def run(self, operation: torch._ops.OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        """The result of the operation."""


class Meter(Operations):
    """Counts every operation that runs inside the block, in total or, which takes longer, also by line."""

    def __init__(self, by_line: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cost = Cost()
        self.flops_by_line, self.bytes_by_line = Counter[str](), Counter[str]()
        self._by_line = by_line
        self._live_bytes = 0
        self._live_storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def run(self, operation: torch._ops.OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        result = operation(*args, **kwargs)
        formula, is_view = _known(operation)
        flops = formula(*args, **kwargs, out_val=result) if formula else 0
        moved = 0
        if not is_view:
            outputs = tensors_of((result,))
            for tensor in (*tensors_of(args), *tensors_of(kwargs.values()), *outputs):
                moved += tensor.nbytes
            for tensor in outputs:
                self.cost.largest_tensor = max(self.cost.largest_tensor, tensor.nbytes)
                self._track(tensor.untyped_storage())
        self.cost.flops += flops
        self.cost.bytes_moved += moved
        if self._by_line and (line := current_line()):
            self.flops_by_line[line] += flops
            self.bytes_by_line[line] += moved
        return result

    def _track(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._live_storages:
            self._live_bytes += size
            self.cost.peak_memory = max(self.cost.peak_memory, self._live_bytes)
            self._live_storages[key] = weakref.ref(storage, partial(self._release, key, size))

    def _release(self, key: int, size: int, _: object) -> None:
        del self._live_storages[key]
        self._live_bytes -= size


class _NonFiniteLines(Operations):
    """Notes the first line that computes NaN from other numbers, and the first one that computes infinity."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nan: str | None = None
        self.infinite: str | None = None

    def run(self, operation: torch._ops.OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        inputs = [tensor for tensor in tensors_of((args, *kwargs.values())) if tensor.is_floating_point()]
        of_nan = any(bool(tensor.isnan().any()) for tensor in inputs)
        of_infinity = any(bool(tensor.isinf().any()) for tensor in inputs)  # beforehand, as it may run in place
        result = operation(*args, **kwargs)
        outputs = [tensor for tensor in tensors_of((result,)) if tensor.is_floating_point()]
        if operation._overloadpacket._qualified_op_name.partition("::")[2].startswith(_FILLING):
            return result
        if not of_nan and any(tensor.isnan().any() for tensor in outputs):
            self.nan = self.nan or current_line()
        if inputs and not of_infinity and any(tensor.isinf().any() for tensor in outputs):
            self.infinite = self.infinite or current_line()
        return result


_FILLING = ("constant_pad_nd", "copy", "empty", "fill", "full", "masked_fill", "new_empty", "new_full", "where")
"""Beginnings of the names of operations that write given values, such as those of masks, or none."""


def line_of_non_finite(repeat: Callable[[], object]) -> str | None:
    """The program's line in which `repeat` first computes NaN, or else infinity, or NaN as a gradient."""
    with _NonFiniteLines() as lines, suppress(Exception):
        repeat()
    return lines.nan or line_of_backward(repeat, to_nan=True) or lines.infinite


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: object, **_options: object) -> int:
    batch, heads, length, width = query.shape
    return 2 * batch * heads * length * key.shape[-2] * (width + value.shape[-1])


# Operations that torch's registry lacks.
_MISSING: dict[str, Callable[..., int]] = {
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten.mv": lambda matrix, _vector, **_: 2 * matrix.numel(),
}


@cache
def _known(func: torch._ops.OpOverload) -> tuple[Callable[..., int] | None, bool]:
    """The formula of an operation's FLOPs, if it has one, and whether its result is a view."""
    packet = func._overloadpacket
    return flop_registry.get(packet) or _MISSING.get(str(packet)), func.is_view


def tensors_of(values: Iterable[object]) -> list[Tensor]:
    """All tensors in values, tuples and lists."""
    tensors = list[Tensor]()
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, tuple | list):
            tensors += tensors_of(value)
    return tensors


BUFFER_BYTES = 128 << 20


def unusual_state(subject: Subject) -> str | None:
    """What is wrong with the mixer's buffers, or with its use of torch's generator, if anything.

    Does not detect: initial values from a generator of the program's own.
    """
    after, inputs = list[Tensor](), subject.noise(2, 65, subject.width).to(subject.plain.dtype)
    for seed in (subject.seed, subject.seed + 1):
        with seeded(seed), torch.no_grad(), subject.plain.active():
            mixer = subject.build(*subject.sizes, subject.layer, subject.plain.name)
            subject.plain.place(mixer)(inputs)
            after.append(torch.get_rng_state())
    if torch.equal(*after):
        return (
            "the program sets torch's random generator, so that trainings with different seeds agree: remove "
            "torch.manual_seed, or pass generator=torch.Generator().manual_seed(...) to single functions"
        )
    size = sum(buffer.numel() * buffer.element_size() for buffer in mixer.buffers())
    if size <= BUFFER_BYTES:
        return None
    advice = "compute tables in forward, for the length of the input"
    return f"buffers take {size >> 20} MiB, more than {BUFFER_BYTES >> 20} MiB: {advice}"


LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
SECONDS, AT_LEAST = 0.5, 1024  # CPU time after which no greater length than this one is measured
LIMIT = 1.2  # n log n gives 1.12 between 1024 and 4096, n² gives 2
LINEAR = 1.05  # below this exponent up to 2048, no smooth growth exceeds the limit at 4096
RANGES = {State(randomised=True): (256, 2048), State(randomised=True, training=True): (128, 512)}
"""The shortest length by state, and the one up to which is measured at least. Parameters are randomised, as a gate may
be closed at initialisation."""
SLOW_RANGE = (64, 256)
"""The range in training mode for programs that take longer than SECONDS in evaluation mode, such as loops over
positions: a backward pass takes up to twice as long as its forward."""
NAMES = {
    "flops": "FLOPs",
    "bytes_moved": "bytes moved",
    "largest_tensor": "largest tensor",
    "peak_memory": "peak memory",
}
PEAKS = ("largest_tensor", "peak_memory")


def cost(subject: Subject) -> Finding:
    """Counts FLOPs, bytes moved, the largest tensor and peak memory at doubling lengths, and fits the exponents.

    In evaluation mode, and in training mode with the backward pass at shorter lengths. An exponent is computed from
    increments between the three greatest lengths, which cancels constant costs. Element-wise work on length × length
    tensors has no FLOPs but shows in bytes and memory. Bytes of the backward pass are left out: the gradient of each
    slice of a loop over positions is as long as the input.
    Does not detect: element-wise work of the backward pass on parts of the length, costs inside single operations (a
    sort, a solve), growth that begins beyond 4096 positions, and growth that needs many calls or particular inputs,
    which `audit.require_linear` looks for.
    """
    counted: dict[str, JSON] = {}
    started, slow = time.process_time(), False
    for state, between in RANGES.items():
        lengths, costs = _measure(subject, state, SLOW_RANGE if state.training and slow else between)
        slow, exponents = time.process_time() - started > SECONDS, _exponents(costs)
        evidence: dict[str, JSON] = {
            "mode": state.mode,
            "lengths": lengths,
            "exponents": {name: number(value) for name, value in exponents.items()},
            **{name: [getattr(cost, name) for cost in costs] for name in NAMES},
        }
        if steep := {NAMES[name]: value for name, value in judged_exponents(costs).items() if value > LIMIT}:
            backward = ", backward pass included" if state.training else ""
            listed = ", ".join(f"{name} (exponent {value:.2f})" for name, value in steep.items())
            line = _steep_line(subject, state, lengths, of_flops=NAMES["flops"] in steep)
            message = f"cost grows faster than n log n in {state.mode} mode{backward}: {listed}"
            message += f", mostly in {line}" if line else ""
            advice = _LOOP_ADVICE if list(steep) == [NAMES["bytes_moved"]] else _PAIR_ADVICE
            return Finding(True, f"{message}; {advice}", evidence)
        counted = counted or evidence
    return Finding(False, "cost grows in proportion to the length", counted)


_LOOP_ADVICE = (
    "in each step of a loop, update a state of a fixed size instead of reading or copying the whole past; append "
    "results to a list, and stack it once"
)
_PAIR_ADVICE = (
    "combine pairs of positions within chunks or windows of a fixed size only, carry a state from one to the next, and "
    "apply long filters by FFT"
)


def _steep_line(subject: Subject, state: State, lengths: Sequence[int], of_flops: bool) -> str | None:
    """The program's line whose FLOPs, or bytes moved where FLOPs are not steep, grow most beyond proportion."""
    short, long = (_run(subject, state, length, by_line=True) for length in lengths[-2:])
    before, after = (meter.flops_by_line if of_flops else meter.bytes_by_line for meter in (short, long))
    excess = {line: after[line] - 2 * before[line] for line in after}
    line = max(excess, key=lambda line: excess[line], default=None)
    return line if line and excess[line] > 0 else None


def _exponents(costs: Sequence[Cost]) -> dict[str, float]:
    return {name: exponent([getattr(cost, name) for cost in costs]) for name in NAMES}


def judged_exponents(costs: Sequence[Cost]) -> dict[str, float]:
    """The exponents; of a peak at most that of its ratio, as it jumps where it exceeds a constant one."""
    ratios = {name: math.log2(max(getattr(costs[-1], name), 1) / max(getattr(costs[-2], name), 1)) for name in PEAKS}
    return {name: min(value, ratios.get(name, math.inf)) for name, value in _exponents(costs).items()}


def _measure(subject: Subject, state: State, between: tuple[int, int]) -> tuple[list[int], list[Cost]]:
    """Costs at three lengths or more; the last ones only where growth is not clearly linear."""
    lengths, costs, started = list[int](), list[Cost](), time.process_time()
    shortest, enough = between
    for length in LENGTHS[LENGTHS.index(shortest) :]:
        if length > AT_LEAST and time.process_time() - started > SECONDS:
            break
        if length > enough and all(value <= LINEAR for value in _exponents(costs).values()):
            break
        try:
            costs.append(_run(subject, state, length).cost)
        except Exception as error:
            if len(costs) >= 3:  # tables for a greatest length are no cost
                break
            error.add_note(f"at length {length}")
            raise
        lengths.append(length)
    return lengths, costs


def _run(subject: Subject, state: State, length: int, by_line: bool = False) -> Meter:
    """Counts a forward and, in training mode, the backward pass, but for the bytes that it moves."""
    mixer = subject.mixer(state, subject.plain)
    inputs = subject.noise(1, length, subject.width).to(subject.plain.dtype).requires_grad_()
    meter = Meter(by_line)
    with torch.enable_grad(), meter:
        output = subject.call(mixer, inputs, subject.plain)
        bytes_moved = meter.cost.bytes_moved
        if state.training:
            subject.plain.backward(output.float().pow(2).mean())
    meter.cost.bytes_moved = bytes_moved
    return meter
