"""Scales are the paper's numbers, and a wrong override is one clear sentence."""

import pytest

from services.engineer.scales import SCALES, ScaleError, load_scale
from services.engineer.training.protocol import STATE_SHARE, limits_of
from services.engineer.training.sizes import learning_rate
from services.sandbox.linux import nvidia_devices
from services.sandbox.wire import Bounds


def test_the_scales_have_the_numbers_of_the_paper() -> None:
    """Comparing with published results needs the published configuration."""
    explore, verify, final = (load_scale(name) for name in ("explore", "verify", "final"))

    assert (explore.blocks, explore.width, explore.steps, explore.tokens) == (8, 256, 2000, 1_048_576_000)
    assert (verify.blocks, verify.width, verify.tied) == (24, 1024, False)
    assert final.tokens == 15_000_000_000
    assert explore.task_limit == 500


def test_a_training_on_a_cpu_starts_no_program_and_opens_no_file() -> None:
    """What a program needs there is loaded before it runs. Its own time is limited, not that of other work."""
    scale = load_scale("tiny")
    limits = limits_of(scale)

    assert limits.cpu_seconds == scale.wall_seconds < limits.wall_seconds
    assert not limits.subprocesses
    assert limits.files == bool(nvidia_devices())


@pytest.mark.parametrize("name", SCALES)
def test_the_state_of_a_training_fits_into_a_message(name: str) -> None:
    """A checkpoint holds the parameters and their two moments."""
    scale = load_scale(name)
    mixer = 4 * scale.width**2
    block = mixer + 3 * scale.width * scale.feed_forward
    parameters = (1 if scale.tied else 2) * 50_257 * scale.width + scale.blocks * block

    assert 12 * parameters <= min(Bounds().array_bytes, scale.memory_bytes // STATE_SHARE)


def test_mini_names_its_precision_so_that_machines_agree() -> None:
    """Its numbers are put together from many machines."""
    assert load_scale("mini").precision == "fp32"
    assert load_scale("mini").steps * load_scale("mini").tokens_per_step == load_scale("mini").tokens


def test_tasks_that_the_scale_does_not_average_are_averaged_by_themselves() -> None:
    """Else a run with tasks of its own would have no benchmark."""
    assert load_scale("mini", {"tasks": "copying,cloze"}).averaged == ("copying",)
    assert load_scale("tiny", {"tasks": "copying,cloze"}).averaged == ("copying", "cloze")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"widht": "3"}, "did you mean width"),
        ({"batch": "x"}, "batch must be a whole number"),
        ({"batch": "0"}, "batch must be more than zero"),
        ({"learning_rate": "inf"}, "learning_rate must be"),
        ({"heads": "3"}, "must be a multiple of its 3 heads"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"steps": "5", "tokens": "5"}, "alternatives"),
        ({"averaged": "piqa"}, "averages piqa"),
    ],
)
def test_an_impossible_override_is_refused_with_a_message(overrides: dict[str, str], sentence: str) -> None:
    """The error is one message without a traceback."""
    with pytest.raises(ScaleError, match=sentence):
        load_scale("tiny", overrides)


def test_an_unknown_scale_names_the_known_ones() -> None:
    """The error lists the known names."""
    with pytest.raises(ScaleError, match="tiny, explore"):
        load_scale("tinny")


def test_the_learning_rate_warms_up_stays_and_decays() -> None:
    """Warm-up–stable–decay, with no step at zero."""
    overrides = {"steps": "100", "learning_rate": "1", "warmup": "0.1", "decay": "0.2", "final_rate": "0.1"}
    rates = [learning_rate(step, load_scale("tiny", overrides)) for step in range(100)]

    assert rates[0] == pytest.approx(0.1)
    assert rates[10:80] == [1.0] * 70
    assert rates[80] < 1.0
    assert 0.1 < rates[99] < 0.2
