"""An analysis may cite what the record holds, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.analyst.numbers import invented

RECORD = (1.5081, 1.4946, 0.388, 0.368, 398_016.0, 16_117.0)


@pytest.mark.parametrize(
    "text",
    [
        "The loss is 1.4946, lower than 1.5081 by 0.0135.",
        "It trains at 16,117 tokens per second with 398,016 parameters.",
        "Accuracy rose from 36.8 % to 38.8%.",
        "Two heads, chunk size 64, arXiv:2406.06484, in 2024.",
        "About 1.5 nats.",
    ],
)
def test_numbers_of_the_record_and_their_differences_pass(text: str) -> None:
    """Rounded as they are written."""
    assert invented(text, RECORD) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("The loss fell to 1.31.", "1.31"), ("Accuracy of 91.2%", "91.2%"), ("at 20,500 tokens/s", "20,500")],
)
def test_an_invented_number_is_named(text: str, wrong: str) -> None:
    """So that the model can be told."""
    assert invented(text, RECORD) == [wrong]


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=8), st.integers(1, 4))
def test_any_text_made_of_the_record_passes(numbers: list[float], digits: int) -> None:
    """However many digits are shown."""
    assert invented(" and ".join(f"{one:.{digits}f}" for one in numbers), numbers) == []
