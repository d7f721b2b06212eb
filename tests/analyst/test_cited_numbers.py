"""An analysis may cite only numbers that follow from the record."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.analyst.model_analyst import Citable, citable_of, description_of, invented, numerals
from tests.analyst.analyst_records import CHILD, PARENT, ROOT, dossier

HELD = Citable(((1.50806, 1.49458), (0.388, 0.368), (398_016.0, 400_192.0), (16_117.0, 20_700.0)), frozenset({64.0}))


@pytest.mark.parametrize(
    "text",
    [
        "The loss is 1.4946, lower than 1.5081 by 0.0135 (−0.0135).",
        "It trains at 16,117 tokens per second (about 16,000) with 398,016 parameters, 398k or 0.398M.",
        "Accuracy rose from 36.8 % to 38.8%, by 2.0 percentage points or 5.4 per cent.",
        "Two heads, 4 layers, chunk size 64, arXiv:2406.06484, in 2024.",
        "About 1.5 nats, that is 1.009 times as much; 1.49e0.",
        "c000007 and layer2 are names, RWKV-7 is one too.",
    ],
)
def test_numbers_of_the_record_and_what_is_computed_from_them_pass(text: str) -> None:
    """Rounded as they are written."""
    assert invented(text, HELD) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("The loss fell to 1.31.", "1.31"),
        ("Accuracy of 91.2%", "91.2%"),
        ("at 20,500 tokens/s", "20,500"),
        ("with 128 heads", "128"),
        ("a rate of 3.1e-3", "3.1e-3"),
        ("2M parameters", "2M"),
        ("version 3071 of it", "3071"),
    ],
)
def test_an_invented_number_is_named(text: str, wrong: str) -> None:
    """The number is named for the model's correction."""
    assert invented(text, HELD) == [wrong]


def test_quantities_of_different_kinds_are_not_combined() -> None:
    """A loss minus an accuracy means nothing, and such differences would let nearly any number pass."""
    assert invented("a gain of 1.1201", Citable(((1.5081,), (0.388,)))) == ["1.1201"]


def test_numbers_of_the_program_pass() -> None:
    """Its constants are on record, since the program is."""
    shown = numerals(["CHUNK = 128\nEPSILON = 1e-5\n"])

    assert invented("chunks of 128 with 1e-5", Citable((), shown)) == []


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=8), st.integers(1, 4))
def test_any_text_made_of_the_record_passes(numbers: list[float], digits: int) -> None:
    """However many digits are shown."""
    assert invented(" and ".join(f"{number:.{digits}f}" for number in numbers), Citable((tuple(numbers),))) == []


@given(st.integers(10_000, 99_999), st.integers(0, 4), st.integers(1, 9))
def test_a_changed_digit_is_refused(digits: int, index: int, step: int) -> None:
    """Whichever it is, in a number written with four decimals."""
    text = str(digits)
    changed = text[:index] + str((int(text[index]) + step) % 10) + text[index + 1 :]
    written = f"{changed[0]}.{changed[1:]}"

    assert invented(f"a loss of {written}.", Citable(((digits / 10_000,),))) == [written]


def test_numbers_of_relatives_can_be_cited() -> None:
    """Losses, their differences and errors; a curve is not held but for what is shown of it."""
    child = type(CHILD)()
    child.CopyFrom(CHILD)
    child.training.seeds[0].curve.add(step=1, tokens=10, loss=7.7777)
    citable = citable_of(dossier(child, root=ROOT, parent=PARENT))

    assert invented("1.4000 against 1.4500 and 1.5000: lower by 0.0500, or 3.4%.", citable) == []
    assert invented("It began at 7.7777.", citable) == ["7.7777"]


def test_falls_of_the_loss_between_shown_points_can_be_cited() -> None:
    """A model that is shown a curve says how far it fell."""
    child = type(CHILD)()
    child.CopyFrom(CHILD)
    for number, loss in enumerate((3.1, 2.646, 2.52, 2.322), 1):
        child.training.seeds[0].curve.add(step=49 * number, train_loss=loss)
    citable = citable_of(dossier(child, root=ROOT, parent=PARENT))

    assert invented("A drop of 0.778, of which 0.198 came last.", citable) == []
    assert invented("A drop of 0.777.", citable) == ["0.777"]


def test_curves_and_parts_of_the_loss_are_compared_with_a_relative() -> None:
    """Both are shown for candidate and parent, so their differences may be cited."""
    child, parent = type(CHILD)(), type(PARENT)()
    child.CopyFrom(CHILD)
    parent.CopyFrom(PARENT)
    for record, last, far in ((child, 1.466, 1.303), (parent, 1.599, 1.431)):
        for number, loss in enumerate((3.1, 2.6, 2.5, last), 1):
            record.training.seeds[0].curve.add(step=49 * number, train_loss=loss)
        record.training.seeds[0].part_losses.add(part="tokens 65-256", share=0.75, loss=far)
    family = dossier(child, root=ROOT, parent=parent)

    assert "loss by part: tokens 65-256 1.303" in description_of(child, parts=True)
    assert invented("Lower by 0.133 in training and by 0.128 far back.", citable_of(family)) == []
    assert invented("Lower by 0.134.", citable_of(family)) == ["0.134"]
