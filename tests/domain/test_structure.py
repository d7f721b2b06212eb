"""Structure of programs: depends on operations, not on names and layout."""

import ast
import gc
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.structure import fingerprint, similarity

PROGRAM = '''
"""A mixer."""
import torch
import torch.nn.functional as F
from torch import nn

SCALE = 0.5

def gate(values, strength=1.0):
    """Squash."""
    total = values * strength
    return F.silu(total)

class Inner(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, width)
        self.weight = nn.Parameter(torch.ones(width))

    def mix(self, values):
        return self.proj(values) * self.weight

class DeltaNet(nn.Module):
    def __init__(self, hidden_size: int = 8, **kwargs):
        super().__init__()
        self.inner = Inner(width=hidden_size)
        self.register_buffer("decay", torch.ones(hidden_size))

    def forward(self, hidden_states, **kwargs):
        # the way through
        mixed = self.inner.mix(hidden_states) + self.inner.proj.weight.sum()
        parts = [gate(part, strength=SCALE) for part in mixed.unbind(1)]
        return torch.stack(parts, dim=1) * self.decay
'''
OWN = ["SCALE", "gate", "values", "strength", "total", "Inner", "width", "proj", "mix", "DeltaNet", "hidden_size"]
OWN += ["inner", "hidden_states", "mixed", "parts", "part", "decay", "F"]


def renamed(program: str, names: dict[str, str]) -> str:
    return re.sub(r"\b\w+\b", lambda match: names.get(match.group(), match.group()), program)


def same_structure(first: str, second: str) -> bool:
    return fingerprint(first) == fingerprint(second)


@given(st.sets(st.sampled_from(OWN)), st.integers(0, 99))
def test_consistent_renaming_changes_nothing(chosen: set[str], salt: int) -> None:
    """Any set of own names, whatever their kind: locals, parameters, attributes, classes, buffers, import aliases."""
    renamed_program = renamed(
        PROGRAM, {name: f"{'Z' if name[0].isupper() else 'z'}{salt}_{len(name)}{name[::-1]}" for name in chosen}
    )

    assert same_structure(PROGRAM, renamed_program)


def test_renaming_a_local_in_one_function_alone_changes_nothing() -> None:
    """Scopes are respected: `values` of the helper is not that of the method."""
    assert same_structure(
        PROGRAM, PROGRAM.replace("self.proj(values)", "self.proj(v)").replace("mix(self, values)", "mix(self, v)")
    )


def test_layout_comments_docstrings_and_annotations_change_nothing() -> None:
    """The parser's own writing of the program has none of the layout."""
    bare = ast.unparse(ast.parse(PROGRAM)).replace("'''Squash.'''", "").replace('"""Squash."""', "")

    assert same_structure(PROGRAM, bare.replace(": int", ""))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("F.silu", "F.gelu"),
        ("SCALE = 0.5", "SCALE = 0.25"),
        ("values * strength", "values + strength"),
        ("self.inner.proj.weight", "self.inner.proj.bias"),
        ("dim=1", "dim=2"),
        ("self.proj(values) * self.weight", "self.weight * self.proj(values)"),
        ("from torch import nn", "from other import nn"),
        ("strength=SCALE", "SCALE, strength"),
    ],
)
def test_another_operation_is_another_program(old: str, new: str) -> None:
    """Library names, literals, operators and order count."""
    assert old in PROGRAM
    assert not same_structure(PROGRAM, PROGRAM.replace(old, new))


def test_swapping_two_names_at_one_use_is_another_program() -> None:
    """Numbers must tell which value is used, not only that some value is."""
    program = "def f(a, b):\n    return a - b\n"

    assert not same_structure(program, program.replace("a - b", "b - a"))
    assert same_structure(program, "def g(y, x):\n    return y - x\n")


def test_similarity_orders_by_how_much_was_changed() -> None:
    """An edit is nearer than another program, and the relation is symmetric."""
    original = fingerprint(PROGRAM)
    edited = fingerprint(PROGRAM.replace("F.silu", "F.gelu"))
    foreign = fingerprint("def f(x):\n    return {key: value + 1 for key, value in x.items()}\n")

    assert similarity(original, original) == 1
    assert 1 > similarity(original, edited) > 0.8 > 0.2 > similarity(original, foreign)
    assert similarity(edited, foreign) == similarity(foreign, edited)


def test_text_that_is_not_python_is_refused() -> None:
    """With the parser's own sentence."""
    with pytest.raises(ValueError, match="not Python"):
        fingerprint("def f(:")
    assert similarity(fingerprint(""), fingerprint("")) == 1


@pytest.fixture
def interrupted_often() -> Iterator[None]:
    """The garbage collector runs often and lets other threads in, as it does in a busy service."""
    usual, thresholds = sys.getswitchinterval(), gc.get_threshold()

    def give_way(phase: str, facts: dict[str, int]) -> None:
        time.sleep(0)

    sys.setswitchinterval(5e-6)
    gc.set_threshold(100)
    gc.callbacks.append(give_way)
    yield
    gc.callbacks.remove(give_way)
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("interrupted_often")
def test_threads_may_ask_at_the_same_time() -> None:
    """As the store does; Python's own parser is not safe there."""
    programs = [f"{PROGRAM}\nnumber = {number}\n" for number in range(100)]
    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(lambda program: fingerprint(program).digest, programs))

    assert len(set(digests)) == len(programs)
