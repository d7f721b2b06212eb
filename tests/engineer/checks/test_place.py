"""The line that a refusal names is the one to mend."""

import pytest
import torch

from services.engineer.checks.place import line_of_length
from services.engineer.program import execute

DIVIDES = """
import torch


def flat(x):
    return x.reshape(x.shape[0], x.shape[1], -1)


def forward(x):
    rows, length, width = x.shape
    split = x.reshape(rows, length, 2, width // 2)
    turned = split.transpose(1, 2).contiguous().transpose(1, 2)
    merged = flat(split if length % 32 else turned) + flat(2 * turned)
    return merged + torch.arange(length)[:, None] / length
"""


@pytest.mark.parametrize(("part", "length"), [(33, 64), (32, 65)])
def test_a_copy_that_one_length_alone_needs_is_not_blamed(part: int, length: int) -> None:
    """The copies of a line that merges heads were counted, so that those of different tensors were compared."""
    inputs = torch.randn(1, length, 8, generator=torch.Generator().manual_seed(0))

    line = line_of_length(execute(DIVIDES).forward, inputs, part, 1e-6)

    assert line == "line 14 (forward): return merged + torch.arange(length)[:, None] / length"
