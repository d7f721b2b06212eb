"""The zoo and programs of moves with fla's real Triton kernels, under Triton's interpreter where there is no GPU."""

import random

import pytest
import torch

from bench.kernels import compare_programs, probes, unavailable
from services.domain.zoo import baselines
from services.mixers.description import CATALOGUE
from services.mixers.moves import BY_NAME, LIBRARY
from services.mixers.render import render

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
MISSING = unavailable(DEVICE)
LENGTHS = (1, 63, 64, 100) if GPU else (65,)
"""65 is the shortest with two chunks: a state is handed from one to the next, and the second is not full."""
MOVES = 2
LATEST = (
    "trapezoidal_writes", "log_linear_memory", "mesa_reads", "ridge_reads", "householder_positions",
    "preconditioned_writes", "linear_window_path", "sparse_slots", "memory_by_age",
)  # fmt: skip
"""Moves that call an operator in a way of their own: solved reads, corrected keys, several decays, slots."""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]


def _moved() -> dict[str, str]:
    """Changes of gated linear attention and of the gated delta rule, drawn once."""
    programs = dict[str, str]()
    for number, parent in enumerate(("gla", "gated_delta_net"), 1):
        moves = list(LIBRARY)
        random.Random(number).shuffle(moves)
        changed = [(move, move.apply(CATALOGUE[parent])) for move in moves]
        rendered = {f"{parent} {m.name}": render(d, "Changed", m.what) for m, d in changed if d is not None}
        programs |= dict(list(rendered.items())[:MOVES])
    for name in LATEST:
        changed_mixer = BY_NAME[name].apply(CATALOGUE["gated_delta_net"])
        assert changed_mixer is not None
        programs[name] = render(changed_mixer, "Changed", BY_NAME[name].what)
    return programs


def _check(programs: dict[str, str]) -> None:
    compared = compare_programs(programs, LENGTHS, DEVICE, "fp32")

    assert len(compared) == len(programs) * len(LENGTHS)
    assert [comparison for comparison in compared if not comparison.agrees] == []


def test_the_zoo_computes_the_same_with_the_kernels() -> None:
    """What runs here is known to run there: outputs and gradients of all parameters. All programs in one test, as
    importing fla takes longer than most of them."""
    _check({baseline.name: baseline.program for baseline in baselines()})


def test_moves_packed_sequences_and_states_compute_the_same_with_the_kernels() -> None:
    """Several sequences in one row, and states that are handed on as in decoding, for three operators."""
    _check(_moved() | probes())
