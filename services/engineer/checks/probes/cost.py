"""Does the cost grow faster than the length?"""

import math
import time
from dataclasses import asdict

import torch

from services.engineer.checks.comparing import number
from services.engineer.checks.metering import Cost, Meter
from services.engineer.checks.report import JSON, Finding
from services.engineer.checks.subject import Subject

LENGTHS = (256, 512, 1024, 2048, 4096)
SECONDS = 1.0  # past this, longer inputs are left out; only the number of lengths depends on a clock, never a count
LIMIT = 1.2  # n log n gives 1.12 between 1024 and 4096, n² gives 2
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
    Cannot see: the backward pass, costs inside operations that torch counts as one (a sort, a solve), and growth
    that begins beyond 4096 positions.
    """
    lengths, costs = _measure(subject)
    exponents = {what: _exponent([asdict(spent)[what] for spent in costs]) for what in NAMES}
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


def _measure(subject: Subject) -> tuple[list[int], list[Cost]]:
    """At least three lengths, however long they take."""
    lengths: list[int] = []
    costs: list[Cost] = []
    started = time.perf_counter()
    for length in LENGTHS:
        spent = time.perf_counter() - started
        if len(lengths) >= 3 and spent > SECONDS / 2:
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


def _exponent(costs: list[int]) -> float:
    """Of the last three costs, at lengths that double: log2 of how much more the second doubling added."""
    before, middle, last = costs[-3:]
    if last <= middle or middle <= before:
        return 0.0 if last <= middle else math.log2(last / middle) if middle else math.inf
    return math.log2((last - middle) / (middle - before))
