"""What a mixer takes, without a clock: FLOPs, bytes moved, the largest tensor and peak memory of a forward; memory of
buffers; and numbers of torch's generator."""

import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from services.engineer.checks.compare import exponent, number
from services.engineer.checks.remote import State
from services.engineer.checks.report import JSON, Finding
from services.engineer.checks.subject import Subject, seeded


@dataclass
class Cost:
    """The cost of one forward. FLOPs count matrix products, convolutions and attention only."""

    flops: int = 0
    bytes_moved: int = 0
    largest_tensor: int = 0  # bytes
    peak_memory: int = 0  # bytes allocated by the forward and alive at the same time, including those for backward


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts every operation that runs inside the block."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False, since torch would otherwise import its compiler (1.3 s) at the first operation."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cost = Cost()
        self._live_bytes = 0
        self._live_storages: set[int] = set()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in flop_registry:
            self.cost.flops += int(flop_registry[packet](*args, **kwargs, out_val=result))
        elif formula := _MISSING.get(str(packet)):
            self.cost.flops += formula(*args)
        if not func.is_view:
            self.cost.bytes_moved += sum(tensor.nbytes for tensor in _tensors((args, *kwargs.values())))
            for tensor in _tensors(result):
                self.cost.bytes_moved += tensor.nbytes
                self.cost.largest_tensor = max(self.cost.largest_tensor, tensor.nbytes)
                self._track(tensor.untyped_storage())
        return result

    def _track(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._live_storages:
            self._live_storages.add(key)
            self._live_bytes += size
            self.cost.peak_memory = max(self.cost.peak_memory, self._live_bytes)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._live_storages.discard(key)
        self._live_bytes -= size


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: object) -> int:
    batch, heads, length, width = query.shape
    return 2 * batch * heads * length * key.shape[-2] * (width + value.shape[-1])


# Operations that torch's registry lacks.
_MISSING: dict[str, Callable[..., int]] = {
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten.mv": lambda matrix, _vector: 2 * matrix.numel(),
}


def _tensors(values: object) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)


BUFFER_BYTES = 128 << 20


def unusual_state(subject: Subject) -> str | None:
    """What is wrong with the mixer's buffers, or with its use of torch's generator, if anything.

    Does not detect: initial values from a generator of the program's own.
    """
    after, inputs = list[Tensor](), subject.noise(2, 65, subject.width).to(subject.plain.dtype)
    for seed in (subject.seed, subject.seed + 1):
        with seeded(seed), torch.no_grad(), subject.plain.active():
            mixer = subject.build(*subject.sizes, subject.layer)
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


LENGTHS = (128, 256, 512, 1024, 2048, 4096)
SECONDS, AT_LEAST = 0.5, 1024  # CPU time after which no greater length than this one is measured
LIMIT = 1.2  # n log n gives 1.12 between 1024 and 4096, n² gives 2
LINEAR = 1.05  # below this exponent up to 2048, no smooth growth exceeds the limit at 4096
RANGES = {State(randomised=True): (256, 2048), State(randomised=True, training=True): (128, 512)}
"""The shortest length by state, and the one up to which is measured at least. Parameters are randomised, as a gate may
be closed at initialisation."""
NAMES = {
    "flops": "FLOPs",
    "bytes_moved": "bytes moved",
    "largest_tensor": "largest tensor",
    "peak_memory": "peak memory",
}


def cost(subject: Subject) -> Finding:
    """Counts FLOPs, bytes moved, the largest tensor and peak memory at doubling lengths, and fits the exponents.

    In evaluation mode, and in training mode at shorter lengths. An exponent is computed from increments between the
    three greatest lengths, which cancels constant costs. Element-wise work on length × length tensors has no FLOPs but
    shows in bytes and memory.
    Does not detect: the backward pass, costs inside single operations (a sort, a solve), growth that begins beyond 4096
    positions, and growth that needs many calls or particular inputs, which `audit.require_linear` looks for.
    """
    counted: dict[str, JSON] = {}
    for state in RANGES:
        lengths, costs = _measure(subject, state)
        exponents = _exponents(costs)
        evidence: dict[str, JSON] = {
            "mode": state.mode,
            "lengths": lengths,
            "exponents": {name: number(value) for name, value in exponents.items()},
            **{name: [getattr(cost, name) for cost in costs] for name in NAMES},
        }
        steep = [f"{NAMES[name]} (exponent {value:.2f})" for name, value in exponents.items() if value > LIMIT]
        if steep:
            message = f"cost grows faster than n log n in {state.mode} mode: {', '.join(steep)}"
            return Finding(True, message, evidence)
        counted = counted or evidence
    return Finding(False, "cost grows in proportion to the length", counted)


def _exponents(costs: Sequence[Cost]) -> dict[str, float]:
    return {name: exponent([getattr(cost, name) for cost in costs]) for name in NAMES}


def _measure(subject: Subject, state: State) -> tuple[list[int], list[Cost]]:
    """Costs at three lengths or more; the last ones only where growth is not clearly linear."""
    lengths, costs, started = list[int](), list[Cost](), time.process_time()
    shortest, enough = RANGES[state]
    for length in LENGTHS[LENGTHS.index(shortest) :]:
        if length > AT_LEAST and time.process_time() - started > SECONDS:
            break
        if length > enough and all(value <= LINEAR for value in _exponents(costs).values()):
            break
        try:
            costs.append(_forward(subject, state, length))
        except Exception as error:
            if len(costs) >= 3:  # tables for a greatest length are no cost
                break
            error.add_note(f"at length {length}")
            raise
        lengths.append(length)
    return lengths, costs


def _forward(subject: Subject, state: State, length: int) -> Cost:
    mixer = subject.mixer(state, subject.plain)
    inputs = subject.noise(1, length, subject.width).to(subject.plain.dtype).requires_grad_()
    with torch.enable_grad(), Meter() as meter:
        subject.call(mixer, inputs, subject.plain)
    cost: Cost = meter.cost
    return cost
