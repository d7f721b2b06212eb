"""fla's own layers with our operators and modules, and the parts of RWKV's layers by their equations."""

import json
import math
import subprocess
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from services.fla_cpu import layers

torch.set_num_threads(1)

PROGRAM = """
import importlib.util, json, sys, warnings
from importlib.machinery import PathFinder

import torch
from services import fla_cpu
from services.fla_cpu.layers import Cache

fla_cpu.install()
torch.set_num_threads(1)
warnings.simplefilter("ignore")
root = PathFinder.find_spec("fla").submodule_search_locations[0]


def run(file, kind, arguments, cached):
    specification = importlib.util.spec_from_file_location(file, f"{root}/layers/{file}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    torch.manual_seed(0)
    layer = getattr(module, kind)(hidden_size=32, **arguments)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # several are zero at first
    x = torch.randn(2, 70, 32, requires_grad=True)

    def outputs(x, **options):
        first_values = {"v_first": torch.zeros_like(x)} if file == "rwkv7" else {}
        output = layer(x, **options, **first_values)
        return output[0] if isinstance(output, tuple) else output

    output = outputs(x)
    output.square().sum().backward()
    assert output.abs().max() > 0 and all(parameter.grad is not None for parameter in layer.parameters())
    if cached:
        layer.eval()
        cache = Cache()
        with torch.no_grad():
            parts = [outputs(x[:, :66], past_key_values=cache, use_cache=True)]
            parts += [outputs(x[:, t : t + 1], past_key_values=cache, use_cache=True) for t in range(66, 70)]
        torch.testing.assert_close(torch.cat(parts, dim=1), output, atol=1e-4, rtol=1e-4)


for file, (kind, arguments, cached) in json.loads(sys.argv[1]).items():
    run(file, kind, arguments, cached)
    print(file)
"""
LAYERS: dict[str, tuple[str, dict[str, int | None], bool]] = {
    "abc": ("ABCAttention", {"num_heads": 2, "num_slots": 8, "layer_idx": 0}, False),
    "based": ("BasedLinearAttention", {"num_heads": 2, "num_key_value_heads": 2, "feature_dim": 4}, False),
    "comba": ("Comba", {"num_heads": 2, "head_dim": 8, "layer_idx": 0}, True),
    "gated_deltanet": ("GatedDeltaNet", {"num_heads": 2, "head_dim": 8, "layer_idx": 0}, True),
    "gated_deltaproduct": (
        "GatedDeltaProduct", {"num_heads": 2, "head_dim": 8, "num_householder": 2, "layer_idx": 0}, True,
    ),
    "gdn2": ("GatedDeltaNet2", {"num_heads": 2, "head_dim": 8, "layer_idx": 0}, True),
    "gsa": ("GatedSlotAttention", {"num_heads": 2, "num_slots": 8, "layer_idx": 0}, True),
    "hgrn2": ("HGRN2Attention", {"num_heads": 2, "expand_ratio": None, "layer_idx": 0}, True),
    "kda": ("KimiDeltaAttention", {"num_heads": 2, "head_dim": 8, "layer_idx": 0}, True),
    "lightnet": (
        "LightNetAttention", {"num_heads": 2, "expand_ratio": 16, "gate_low_rank_dim": 4, "layer_idx": 0}, True,
    ),
    "rebased": ("ReBasedLinearAttention", {"num_heads": 2, "num_key_value_heads": 2, "feature_dim": 4}, False),
    "rwkv6": (
        "RWKV6Attention", {"num_heads": 2, "proj_low_rank_dim": 4, "gate_low_rank_dim": 4, "layer_idx": 0}, True,
    ),
    "rwkv7": (
        "RWKV7Attention",
        {
            "head_dim": 16, "num_hidden_layers": 2, "layer_idx": 0,
            "decay_low_rank_dim": 4, "gate_low_rank_dim": 4, "a_low_rank_dim": 4,
        },
        True,
    ),
}  # fmt: skip
"""Class, arguments, and whether outputs can be continued: Based and ReBased have no cache, and ABC normalises anew."""


def test_layers_of_fla_train_and_continue_from_their_cache() -> None:
    """Programs of other people are made of these: every name, option and returned value that the layers use."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(LAYERS)], capture_output=True, text=True, check=False
    )

    assert done.stdout.split() == list(LAYERS), done.stderr
    assert done.returncode == 0


def test_the_inputs_of_rwkv_7_are_mixed_with_the_token_before() -> None:
    """x + (x_before − x) · weight, and None for a gate that is not there."""
    x, delta = torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    weights = [torch.rand(1, 1, 6) for _ in range(6)]
    mixed = layers.fused_addcmul_rwkv7(x, delta, *weights)

    assert all(
        torch.allclose(torch.as_tensor(part), x + delta * weight, atol=1e-6)
        for part, weight in zip(mixed, weights, strict=True)
    )
    assert layers.fused_addcmul_rwkv7(x, delta, *weights[:5])[5] is None


def test_the_element_wise_parts_of_rwkv_7_are_their_equations() -> None:
    """The keys that are written, the output's bonus and gate, and the channel mixing."""
    r, k, v = (torch.randn(2, 5, 3, 4) for _ in range(3))
    o, g, r_k = torch.randn(2, 5, 12), torch.rand(2, 5, 12), torch.randn(3, 4)
    a, ka = torch.rand(2, 5, 3, 4), torch.rand(4)
    bonus = torch.stack([(r * k * r_k).sum(-1)[..., head, None] * v[..., head, :] for head in range(3)], dim=2)
    x, before, x_k = torch.randn(2, 5, 6), torch.randn(2, 6), torch.rand(6)
    key, value = torch.randn(6, 8), torch.randn(8, 6)
    shifted = torch.cat([before[:, None], x[:, :-1]], dim=1)
    mixed, last = layers.channel_mixing_rwkv7(x, before, x_k, key, value)

    assert torch.allclose(layers.fused_k_rwkv7(k, a, ka), k * (1 + (a - 1) * ka), atol=1e-6)
    assert torch.allclose(layers.gate_output_correction(o, r, k, r_k, v, g), (o + bonus.flatten(2)) * g, atol=1e-5)
    assert torch.allclose(mixed, F.relu((x + (shifted - x) * x_k) @ key).square() @ value, atol=1e-4)
    assert torch.equal(last, x[-1])


def test_a_projection_of_low_rank_starts_as_its_bias() -> None:
    """The first matrix is zero, and the second orthogonal with a gain of 0.1 · √(rank/outputs), or 0.1 if smaller."""
    layer = layers.LoRA(6, 8, 4)
    layer.set_bias_value(torch.arange(8.0))
    wide = layers.LoRA(6, 4, 16, bias=False, activation=None)
    matrix = wide.lora[2].weight
    assert isinstance(matrix, Tensor)

    assert torch.equal(layer(torch.randn(2, 6)), torch.arange(8.0).expand(2, 8))
    assert torch.allclose(matrix @ matrix.T, 0.01 * 16 / 4 * torch.eye(4), atol=1e-6)
    layer.set_bias_value(1.0)
    layer._initialize_weights(layer)  # as the layer of RWKV-7 does

    assert torch.equal(layer(torch.randn(2, 6)), torch.zeros(2, 8))
    assert math.isclose(torch.linalg.matrix_norm(layers.LoRA(6, 8, 4).lora[2].weight, 2).item(), 0.1, rel_tol=1e-4)


def test_a_mixed_projection_shifts_by_one_token() -> None:
    """By its own mu or by the call's."""
    x, mu = torch.randn(1, 5, 6), torch.rand(6)
    given, own = layers.DDLerpLinear(6, 4), layers.LerpLinear(6, 4)
    own.load_state_dict({"mu": mu, **given.state_dict()})
    shifted = F.pad(x[:, :-1], (0, 0, 1, 0))

    assert torch.allclose(given(x, mu), given.linear(x + (shifted - x) * mu), atol=1e-6)
    assert torch.allclose(own(x), given(x, mu))
