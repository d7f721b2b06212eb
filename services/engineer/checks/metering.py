"""What a forward costs, counted without a clock: FLOPs, bytes moved, the largest tensor and the peak of live memory."""

import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from services.engineer.checks.compare import exponent, number
from services.engineer.checks.report import JSON, Finding
from services.engineer.checks.subject import Subject


@dataclass
class Cost:
    """Of one forward. FLOPs are those of matrix products, convolutions and attention; the rest shows in the bytes."""

    flops: int = 0
    bytes_moved: int = 0
    largest_tensor: int = 0  # bytes
    peak_memory: int = 0  # bytes, of what the forward allocated and kept at one time, saved for backward included


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts every operation run inside the block."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; otherwise torch imports its compiler (1.3 s) at the first operation."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cost = Cost()
        self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.cost.flops += _flops(func, args, kwargs, result)
        if not func.is_view:
            self._count_bytes(list(_tensors((args, *kwargs.values()))), list(_tensors((result,))))
        return result

    def _count_bytes(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        moved = [tensor.numel() * tensor.element_size() for tensor in chain(inputs, outputs)]
        self.cost.bytes_moved += sum(moved)
        for tensor in outputs:
            self.cost.largest_tensor = max(self.cost.largest_tensor, tensor.numel() * tensor.element_size())
            self._follow(tensor.untyped_storage())

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self._live += size
        self.cost.peak_memory = max(self.cost.peak_memory, self._live)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


def _flops(func: torch._ops.OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object], result: object) -> int:
    packet = func._overloadpacket
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=result))
    counted: Callable[..., int] | None = _MISSING.get(str(packet))
    return counted(*args) if counted else 0


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: object) -> int:
    batch, heads, length, width = query.shape
    return 2 * batch * heads * length * key.shape[-2] * (width + value.shape[-1])


def _vector_product(matrix: Tensor, _vector: Tensor) -> int:
    return 2 * matrix.numel()


# What torch's own registry leaves out: attention's kernel for CPUs, and products with vectors.
_MISSING: dict[str, Callable[..., int]] = {
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten.mv": _vector_product,
}


def _tensors(values: object) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)


LENGTHS = (256, 512, 1024, 2048, 4096)
SECONDS = 0.5  # of processor time, past which slow programs are left at the first three lengths
LIMIT = 1.2  # n log n gives 1.12 between 1024 and 4096, n² gives 2
LINEAR = 1.05  # where nothing grows faster up to 2048, no smooth growth passes the limit at 4096
NAMES = {
    "flops": "FLOPs",
    "bytes_moved": "bytes moved",
    "largest_tensor": "largest tensor",
    "peak_memory": "peak memory",
}


def cost(subject: Subject) -> Finding:
    """Counts FLOPs, bytes moved, the largest tensor and peak memory at doubling lengths, and fits the exponents.

    An exponent comes from the growth of the growth (the three greatest lengths), so that constant costs do not hide it.
    Element-wise work on length × length tensors has no FLOPs; bytes and memory show it.
    Cannot see: the backward pass, other layers than the first, costs inside operations that torch counts as one (a
    sort, a solve), and growth that begins beyond 4096 positions.
    """
    lengths, costs = _measure(subject)
    exponents = _exponents(costs)
    evidence: dict[str, JSON] = {
        "lengths": lengths,
        "exponents": {what: number(value) for what, value in exponents.items()},
        **{what: [asdict(spent)[what] for spent in costs] for what in NAMES},
    }
    steep = [what for what, value in exponents.items() if value > LIMIT]
    if not steep:
        return Finding(False, "cost grows in proportion to the length", evidence)
    grown = ", ".join(f"{NAMES[what]} (exponent {exponents[what]:.2f})" for what in steep)
    return Finding(True, f"cost grows faster than n log n: {grown}", evidence)


def _exponents(costs: Sequence[Cost]) -> dict[str, float]:
    return {what: exponent([asdict(spent)[what] for spent in costs]) for what in NAMES}


def _measure(subject: Subject) -> tuple[list[int], list[Cost]]:
    """At least three lengths; the last only where growth is not plainly linear."""
    lengths: list[int] = []
    costs: list[Cost] = []
    started = time.process_time()
    for length in LENGTHS:
        if len(lengths) >= 3 and time.process_time() - started > SECONDS:
            break
        if len(lengths) >= 4 and all(value <= LINEAR for value in _exponents(costs).values()):
            break
        lengths.append(length)
        costs.append(_forward(subject, length))
    return lengths, costs


def _forward(subject: Subject, length: int) -> Cost:
    mixer = subject.mixer(arithmetic=subject.plain)
    inputs = subject.noise(1, length, subject.width).to(subject.plain.dtype).requires_grad_()
    with torch.enable_grad(), Meter() as meter:
        subject.call(mixer, inputs, subject.plain)
    cost: Cost = meter.cost
    return cost
