"""Mixers as the probes of a check build them: their sizes, precision and state."""

from functools import partial

import pytest
import torch

from services.engineer.checks.child import build
from services.engineer.checks.report import CheckSettings
from services.engineer.checks.subject import DOUBLE, SINGLE, Subject, checkpoint_in_modes
from tests.engineer.program.test_loading import HEAD, kind

pytestmark = pytest.mark.usefixtures("prepared_child")


def test_a_program_for_greater_widths_is_probed_at_the_scale_s() -> None:
    """A default of 128 features per head leaves no head at the probes' width."""
    wide = kind("Mixer", body="self.part = nn.Linear(hidden_size, hidden_size // (hidden_size // 128))")
    subject = Subject(partial(build, HEAD + wide, False, 2), CheckSettings(width=128, heads=4, probe_width=64))

    assert subject.width == 128
    assert subject.output(subject.noise(1, 3, 128)).shape == (1, 3, 128)
    assert Subject(partial(build, HEAD + kind("Mixer"), False, 2), CheckSettings()).width == 64


@pytest.mark.parametrize(
    "cached",
    [
        "from functools import lru_cache\n\n\n@lru_cache\ndef scale(n):\n    return torch.ones(n, n) / n\n\n",
        "KEPT = {}\n\n\ndef scale(n):\n    return KEPT.setdefault(n, torch.ones(n, n) / n)\n\n",
        "class Scales:\n    kept = None\n\n\ndef scale(n):\n"
        "    Scales.kept = torch.ones(n, n) / n if Scales.kept is None else Scales.kept\n    return Scales.kept\n\n",
    ],
    ids=["lru_cache", "module", "class"],
)
def test_a_cached_tensor_does_not_survive_a_change_of_precision(cached: str) -> None:
    """Probes compute in double precision first; a mask that a program keeps in a cache would stay double."""
    body = "self.proj = nn.Linear(hidden_size, hidden_size)"
    mixer = kind("Mixer", body=body).replace("return hidden", "return self.proj(hidden_states) @ scale(16) + hidden")
    subject = Subject(partial(build, HEAD + cached + mixer, False, 2), CheckSettings(probe_width=16, probe_heads=2))
    inputs = subject.noise(1, 3, 16)

    assert subject.output(inputs, arithmetic=DOUBLE).dtype is torch.float64
    assert subject.output(inputs, arithmetic=SINGLE).dtype is torch.float32


def test_random_numbers_at_import_are_the_same_in_each_precision() -> None:
    """The program is executed in the first forward of a precision, whose parameters would be others than the next's."""
    body = "self.proj = nn.Linear(hidden_size, hidden_size)"
    mixer = kind("Mixer", body=body).replace("return hidden", "return self.proj(hidden_states) @ FEATURES + hidden")
    program = f"{HEAD}FEATURES = torch.randn(16, 16)\n\n{mixer}".replace("FEATURES +", "FEATURES.to(hidden_states) +")
    subject = Subject(partial(build, program, False, 2), CheckSettings(probe_width=16, probe_heads=2))
    inputs = subject.noise(1, 3, 16)
    first, second = (subject.output(inputs, arithmetic=DOUBLE) for _ in range(2))

    assert torch.equal(first, second)
    assert torch.allclose(first.float(), subject.output(inputs, arithmetic=SINGLE), atol=1e-4)


def test_values_that_nobody_set_are_named_as_a_cause() -> None:
    """By chance they may be numbers when the program is first run."""
    mixer = kind("Mixer").replace("return ", "return float('nan') * ")
    subject = Subject(partial(build, HEAD + mixer, False, 2), CheckSettings())

    with pytest.raises(ValueError, match=r"in any precision: torch\.empty sets no values"):
        _ = subject.exact


def test_an_override_of_train_may_return_nothing() -> None:
    """Only a chain of calls needs its value; a training makes none."""
    train = "    def train(self, mode=True):\n        super().train(mode)\n"
    subject = Subject(partial(build, HEAD + kind("Mixer") + train, False, 2), CheckSettings(probe_width=16))

    assert not subject.mixer().training


def test_the_checkpoint_of_probes_has_the_name_of_torch_s() -> None:
    """A program may read it, and must not tell a check from a training by it."""
    assert (checkpoint_in_modes.__name__, checkpoint_in_modes.__qualname__) == ("checkpoint", "checkpoint")
