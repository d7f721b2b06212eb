"""The zoo and programs of moves with fla's real Triton kernels, under Triton's interpreter where there is no GPU."""

import random

import pytest
import torch

from services.domain.zoo import baselines
from services.engineer.kernels import available, compare_programs, probes
from services.mixers.description import CATALOGUE
from services.mixers.moves import LIBRARY
from services.mixers.render.program import render

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MISSING = available(DEVICE)
LENGTHS = (1, 63, 64, 100) if DEVICE == "cuda" else (20, 65)
LOW = frozenset({"delta_net", "delta_net_value_skip"})
"""Programs whose kernel takes no float32: the delta rule's."""
MOVES = 4
pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]


@pytest.mark.parametrize("name", [one.name for one in baselines() if one.name not in LOW])
def test_a_program_of_the_zoo_computes_the_same_with_the_kernels(name: str) -> None:
    """What runs here is known to run there: outputs and gradients of all parameters."""
    program = next(one.program for one in baselines() if one.name == name)
    compared = compare_programs({name: program}, LENGTHS, DEVICE, "fp32")

    assert all(one.agrees for one in compared), compared


def test_programs_of_moves_compute_the_same_with_the_kernels() -> None:
    """A few changes of gated linear attention, drawn once."""
    drawn, programs = random.Random(1), dict[str, str]()
    moves = list(LIBRARY)
    drawn.shuffle(moves)
    for move in moves:
        changed = move.apply(CATALOGUE["gla"])
        if changed is not None and len(programs) < MOVES:
            programs[move.name] = render(changed, "Changed", move.what)
    compared = compare_programs(programs, LENGTHS[:1], DEVICE, "fp32")

    assert all(one.agrees for one in compared), compared


def test_caches_compute_the_same_with_the_kernels() -> None:
    """States that are handed on, as in decoding."""
    programs = {name: text for name, text in probes().items() if name == "chunk_simple_gla cached"}
    compared = compare_programs(programs, LENGTHS[:1], DEVICE, "fp32")

    assert all(one.agrees for one in compared), compared
