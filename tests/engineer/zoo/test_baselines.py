"""Every program of the zoo is a working, causal mixer of about DeltaNet's size."""

import pytest
import torch
from torch import Tensor, nn

from services.domain.components import VOCABULARY
from services.domain.zoo import baseline, baselines
from services.engineer.construction import MixerSizes
from services.engineer.program import load_mixer
from services.fla_cpu.layers import Cache

pytestmark = pytest.mark.usefixtures("prepared_child")
SMALL = MixerSizes(width=32, heads=2)
NAMES = [baseline.name for baseline in baselines()]


def mixer(name: str, sizes: MixerSizes = SMALL) -> nn.Module:
    torch.manual_seed(0)
    return load_mixer(baseline(name).program, sizes)


def output(module: nn.Module, x: Tensor, **options: object) -> Tensor:
    result: Tensor = module(x, **options)[0]
    return result


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 7, 65])
def test_it_runs_forward_and_backward_at_any_length(name: str, length: int) -> None:
    """Every parameter has a part in the result."""
    module = mixer(name)
    x = torch.randn(2, length, 32)
    y = output(module, x)
    y.square().sum().backward()  # type: ignore[no-untyped-call]

    assert y.shape == x.shape
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in module.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_it_does_not_look_ahead(name: str) -> None:
    """What comes after position 70 changes nothing before it, and something behind it."""
    module, x = mixer(name), torch.randn(1, 130, 32)
    changed = torch.cat([x[:, :70], torch.randn(1, 60, 32)], dim=1)
    before, after = output(module, x), output(module, changed)

    assert torch.allclose(before[:, :70], after[:, :70], atol=1e-5)
    assert not torch.allclose(before[:, 70:], after[:, 70:], atol=1e-3)


@pytest.mark.parametrize("name", ["delta_net", "gated_delta_net"])
def test_cached_decoding_agrees_with_the_whole(name: str) -> None:
    """One token after the other, with the state in between."""
    module, x = mixer(name), torch.randn(2, 20, 32)
    cache = Cache()
    steps = [output(module, x[:, :8], past_key_values=cache, use_cache=True)]
    steps += [output(module, x[:, t : t + 1], past_key_values=cache, use_cache=True) for t in range(8, 20)]

    assert torch.allclose(torch.cat(steps, dim=1), output(module, x), atol=1e-5)
    assert cache.get_seq_length() == 20


@pytest.mark.parametrize("name", NAMES)
def test_it_has_about_as_many_parameters_as_the_root(name: str) -> None:
    """At the sizes of scale tiny, mixers within the model: 25 % of the mixer is 8 % of the model there."""
    sizes = MixerSizes(width=128, heads=4)
    root = sum(parameter.numel() for parameter in mixer("delta_net", sizes).parameters())
    own = sum(parameter.numel() for parameter in mixer(name, sizes).parameters())

    assert 0.75 <= own / root <= 1.3


def test_components_are_in_the_vocabulary() -> None:
    """Figures over a run count them by name."""
    assert all(VOCABULARY.normalise(tag) == tag for baseline in baselines() for tag in baseline.components)


def test_an_unknown_baseline_raises_an_error_with_the_known_names() -> None:
    """A typing error in --baselines."""
    with pytest.raises(ValueError, match="delta_net"):
        baseline("deltanet")
