"""Programs in the style of published ones run unchanged."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from services.engineer.construction import MixerSizes
from services.engineer.program import load_mixer

pytestmark = pytest.mark.usefixtures("prepared_child")
SIZES = MixerSizes(width=16, heads=2, layer=3)


PUBLISHED = """
from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Tuple

import torch
from einops import rearrange
from fla.modules import FusedRMSNormGated, RMSNorm, ShortConvolution
from fla.ops.delta_rule import chunk_delta_rule
from torch import nn
from torch.nn import functional as F
from transformers.processing_utils import Unpack

if TYPE_CHECKING:
    from fla.models.utils import Cache


@torch.compile
def weighted(key: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    return key * beta[..., None]


@torch.compile(mode="max-autotune", fullgraph=True)
def unit(x: torch.Tensor) -> torch.Tensor:
    return F.normalize(x.float(), dim=-1).to(torch.bfloat16)


class Mixing(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Linear(width, width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.proj(hidden_states)


class DeltaNet(nn.Module):
    def __init__(self, mode: str = "chunk", d_model: Optional[int] = None, hidden_size: int = 1024,
                 expand_v: float = 1.0, num_heads: int = 4, conv_size: int = 4, norm_eps: float = 1e-5,
                 **kwargs: Unpack[dict]):
        super().__init__()
        width = d_model or hidden_size
        self.heads = num_heads
        self.qkv = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(3))
        self.conv = nn.ModuleList(ShortConvolution(width, conv_size, activation="silu") for _ in range(3))
        self.beta = nn.Linear(width, num_heads)
        self.mixing = Mixing(width)
        self.norm = RMSNorm(width // num_heads, eps=norm_eps)
        self.gated = FusedRMSNormGated(width, eps=norm_eps)

    def forward(self, hidden_states: torch.Tensor, attention_mask: Optional[torch.Tensor] = None,
                past_key_values: Optional[Cache] = None, use_cache: bool = False,
                **kwargs: Unpack[dict]) -> Tuple[torch.Tensor, None, Optional[Cache]]:
        parts = [conv(linear(hidden_states))[0] for conv, linear in zip(self.conv, self.qkv)]
        q, k, v = (rearrange(x, "b l (h d) -> b l h d", h=self.heads) for x in parts)
        beta = self.beta(hidden_states).sigmoid()
        o, _ = chunk_delta_rule(unit(q), unit(weighted(k, beta)), v.bfloat16(), beta.bfloat16())
        o = rearrange(self.norm(o.to(hidden_states.dtype)), "b l h d -> b l (h d)")
        return self.mixing(self.gated(o, hidden_states)), None, past_key_values
"""


@pytest.mark.parametrize("autocast", [False, True])
def test_a_program_in_the_style_of_published_ones_runs_unchanged(autocast: bool) -> None:
    """Late annotations, compiled functions, names for type checkers only, a helper of its own, bf16 inside."""
    mixer = load_mixer(PUBLISHED, SIZES)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = mixer(torch.randn(2, 9, 16))[0]
    output.float().square().sum().backward()

    assert output.shape == (2, 9, 16)
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in mixer.parameters())


PUBLISHED_CHUNKS = """
import torch
import torch.nn as nn
from einops import rearrange


def delta_rule_chunkwise(q, k, v, beta, chunk_size=8):
    b, h, l, d = q.shape
    pad = (chunk_size - l % chunk_size) % chunk_size
    q, k, v = (torch.nn.functional.pad(x, (0, 0, 0, pad)) for x in (q, k, v))
    beta = torch.nn.functional.pad(beta, (0, pad))
    v, k_beta = v * beta[..., None], k * beta[..., None]
    q, k, v, k_beta = (rearrange(x, "b h (n c) d -> b h n c d", c=chunk_size) for x in (q, k, v, k_beta))
    upper = torch.triu(torch.ones(chunk_size, chunk_size, dtype=torch.bool, device=q.device), diagonal=0)
    inverse = -(k_beta @ k.transpose(-1, -2)).masked_fill(upper, 0)
    for i in range(1, chunk_size):
        row, above = inverse[..., i, :, None].clone(), inverse[..., :, :i].clone()
        inverse[..., i, :i] = inverse[..., i, :i] + (row * above).sum(-2)
    inverse = inverse + torch.eye(chunk_size, dtype=q.dtype, device=q.device)
    u, w = inverse @ v, inverse @ k_beta
    state, out = q.new_zeros(b, h, d, d), torch.zeros_like(v)
    strict = torch.triu(torch.ones_like(upper), diagonal=1)
    for n in range(q.shape[2]):
        attn = (q[:, :, n] @ k[:, :, n].transpose(-1, -2)).masked_fill_(strict, 0)
        fresh = u[:, :, n] - w[:, :, n] @ state
        out[:, :, n] = q[:, :, n] @ state + attn @ fresh
        state = state + k[:, :, n].transpose(-1, -2) @ fresh
    return rearrange(out, "b h n c d -> b h (n c) d")[:, :, :l]


class DeltaNet(nn.Module):
    def __init__(self, hidden_size=1024, num_heads=4, **kwargs):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.beta = nn.Linear(hidden_size, num_heads)

    def forward(self, hidden_states, **kwargs):
        q, k, v = rearrange(self.qkv(hidden_states), "b l (n h d) -> n b h l d", n=3, h=self.num_heads)
        q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
        beta = rearrange(self.beta(hidden_states).sigmoid(), "b l h -> b h l")
        return rearrange(delta_rule_chunkwise(q, k, v, beta), "b h l d -> b l (h d)")
"""


def test_a_program_with_a_delta_rule_of_its_own_runs_unchanged() -> None:
    """Chunks, masks and a loop in plain torch agree with the rule token by token."""
    mixer = load_mixer(PUBLISHED_CHUNKS, SIZES)
    x = torch.randn(1, 19, 16)
    with torch.no_grad():
        q, k, v = mixer.get_submodule("qkv")(x).view(19, 3, 2, 8).unbind(1)
        q, k = nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1)
        beta, state, expected = mixer.get_submodule("beta")(x)[0].sigmoid(), torch.zeros(2, 8, 8), []
        for t in range(19):
            wrong = v[t] - torch.einsum("hkv,hk->hv", state, k[t])
            state = state + torch.einsum("hk,hv->hkv", k[t], beta[t, :, None] * wrong)
            expected.append(torch.einsum("hkv,hk->hv", state, q[t]).flatten())

    assert torch.allclose(mixer(x)[0], torch.stack(expected), atol=1e-5)


def test_a_prepared_process_still_computes_with_scipy() -> None:
    """It looks some libraries up among the loaded modules, where those that are kept away stand as None."""
    code = (
        "from services.engineer.program import prepare_child; prepare_child(); "
        "from scipy import stats; print(round(stats.pearsonr([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]).statistic, 6))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1.0"
