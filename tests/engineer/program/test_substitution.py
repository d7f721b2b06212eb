"""Recurrences replaced by operators: what an operator computes is found, and what it does not is left alone."""

from pathlib import Path

import pytest

from services.engineer.data import open_corpus
from services.engineer.scales import load_scale
from services.engineer.substitution import JOB, SLOW, functions, rewrite, substitute
from services.engineer.training.host import train
from tests.engineer.training.inline_sandbox import InlineSandbox
from tests.engineer.training.programs import SMALL

pytestmark = pytest.mark.usefixtures("prepared_child")

MIXER = """
import torch
from torch import nn


{function}

class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads):
        super().__init__()
        self.heads = num_heads
        self.into = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.small = nn.Linear(hidden_size, num_heads)
        self.out = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states):
        parts = self.into(hidden_states).chunk(3, -1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)) for x in parts)
        k = nn.functional.normalize(k, dim=-1)
        gate = torch.sigmoid(self.small(hidden_states))
        return self.out({call}.flatten(-2))
"""
DELTA = '''
def delta(q, k, v, beta, chunk_size=16):
    """S = S + beta k (v - S k), token by token."""
    state, outputs = torch.zeros_like(k[:, 0, :, :, None] * v[:, 0, :, None]), []
    for t in range(q.shape[1]):
        error = beta[:, t, :, None] * (v[:, t] - (state * k[:, t].unsqueeze(-1)).sum(-2))
        state = state + k[:, t].unsqueeze(-1) * error.unsqueeze(-2)
        outputs.append((state * q[:, t].unsqueeze(-1)).sum(-2))
    return torch.stack(outputs, dim=1) * q.shape[-1] ** -0.5
'''
FADING = '''
def fading(query, key, value, decay):
    """A memory that keeps the share `decay` at each token; heads before time, and reads are not scaled."""
    state, outputs = 0, []
    for t in range(query.shape[2]):
        state = state * decay[:, :, t, None, None] + key[:, :, t, :, None] * value[:, :, t, None, :]
        outputs.append(torch.einsum("bhd,bhde->bhe", query[:, :, t], state))
    return torch.stack(outputs, dim=2)
'''
NEAR = DELTA.replace("state = state + k", "state = 0.999 * state + k")
FADING_CALL = "fading(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), gate.transpose(1, 2)).transpose(1, 2)"


@pytest.mark.parametrize(
    ("function", "call", "operator", "heads_first", "factors", "scaled"),
    [
        (DELTA, "delta(q, k, v, gate)", "chunk_delta_rule", False, False, True),
        (FADING, FADING_CALL, "chunk_simple_gla", True, True, False),
    ],
    ids=["delta rule", "decay as a factor, heads first"],
)
async def test_a_recurrence_that_an_operator_computes_is_replaced_and_trains_alike(
    function: str, call: str, operator: str, heads_first: bool, factors: bool, scaled: bool
) -> None:
    """Both forms stay in the program, and the losses of both trainings are the same to rounding."""
    program = MIXER.format(function=function, call=call)
    scale = load_scale("tiny", {**SMALL, "steps": "3", "log_every": "3", "evaluations": "0"})
    (taken,), refused = await substitute(program, scale, InlineSandbox(), seed=3)
    reading = taken.reading
    corpus = open_corpus(scale, Path("unused"), "tests")
    slow, fast = [(await train(source, 0, scale, corpus, InlineSandbox())).loss for source in (program, taken.program)]

    assert not refused
    assert (reading.operator.name, reading.heads_first, reading.factors, reading.scaled) == (
        operator, heads_first, factors, scaled,
    )  # fmt: skip
    assert taken.difference < 1e-6
    assert f"def {SLOW}" in taken.program
    assert fast == pytest.approx(slow, abs=1e-4)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
async def test_a_recurrence_that_differs_a_little_is_left_alone(device: str) -> None:
    """A memory that loses a thousandth per token is another architecture, also where bfloat16 rounds by more."""
    program, sandbox = MIXER.format(function=NEAR, call="delta(q, k, v, gate)"), InlineSandbox()
    taken, (refusal,) = await substitute(program, load_scale("tiny", {**SMALL, "device": device}), sandbox, seed=3)

    assert not taken
    assert {message.header.get("device", "cpu") for message in sandbox.sent[JOB]} == {"cpu"}
    assert refusal.reason.startswith("no operator of fla computes it at all lengths; the closest differs by")


def test_functions_that_are_not_recurrences_are_ignored() -> None:
    """Whatever needs an argument that no operator has."""
    program = "def a(q, k): ...\ndef b(q, k, v, window): ...\ndef c(q, k, v, *rest): ...\ndef d(q, k, v, beta=1): ...\n"

    assert list(functions(program)) == ["d"]


async def test_an_argument_that_differs_from_its_default_uses_the_slow_form() -> None:
    """The operator knows nothing of it."""
    program = MIXER.format(function=DELTA, call="delta(q, k, v, gate)")
    (taken,), _ = await substitute(program, load_scale("tiny", SMALL), InlineSandbox(), seed=3)

    assert f"if chunk_size != 16:\n        return {SLOW}delta(" in rewrite(program, taken.reading)
