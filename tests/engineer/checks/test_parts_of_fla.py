"""Programs made of fla's less common operators pass every probe: they are causal, linear in the length, and finite."""

from textwrap import indent

import pytest

from services.engineer.checks.host import check
from services.engineer.checks.report import CheckSettings
from services.sandbox import Sandbox

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROGRAM = """
import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from fla.modules import RMSNorm
{imports}


class Mixer(nn.Module):
    def __init__(self, hidden_size=64, num_heads=4, **kwargs):
        super().__init__()
        self.heads, width = num_heads, hidden_size // num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.norm = RMSNorm(hidden_size)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)
{constructor}

    def split(self, x, pattern="b l (h d) -> b l h d"):
        return rearrange(x, pattern, h=self.heads)

    def forward(self, hidden_states, **kwargs):
        x = hidden_states
{forward}
        return self.o_proj(self.norm(o.flatten(2)))
"""
QKV = "q, k, v = (self.split(layer(x)) for layer in (self.q_proj, self.k_proj, self.v_proj))\n"
RWKV7 = """
from fla.layers.rwkv6 import LoRA
from fla.modules.l2norm import l2_norm
from fla.modules.token_shift import token_shift
from fla.ops.rwkv7 import chunk_rwkv7
from fla.ops.rwkv7.fused_addcmul import fused_addcmul_rwkv7
from fla.ops.rwkv7.fused_k_update import fused_k_rwkv7
from fla.ops.rwkv7.gate_output_correction import gate_output_correction
"""
CASES: dict[str, tuple[str, str, str]] = {
    "rwkv 7": (
        RWKV7,
        "self.mix = nn.ParameterList(torch.rand(1, 1, hidden_size) for _ in range(6))\n"
        "self.w, self.a = LoRA(hidden_size, hidden_size, 8), LoRA(hidden_size, hidden_size, 8, activation=None)\n"
        "self.g = LoRA(hidden_size, hidden_size, 8, bias=False, activation='sigmoid')\n"
        "self.k_k, self.k_a = nn.Parameter(torch.ones(hidden_size)), nn.Parameter(torch.ones(hidden_size))\n"
        "self.r_k = nn.Parameter(torch.ones(num_heads, width))",
        "xr, xw, xk, xv, xa, xg = fused_addcmul_rwkv7(x, token_shift(x), *self.mix)\n"
        "r, k, v = self.q_proj(xr), self.k_proj(xk), self.v_proj(xv)\n"
        "w, a = -0.6065306597126334 * self.w(xw).sigmoid(), self.a(xa).sigmoid()\n"
        "kk, k = l2_norm(self.split(k * self.k_k)), fused_k_rwkv7(k, a, self.k_a)\n"
        "r, w, k, v, a = (self.split(part) for part in (r, w, k, v, a))\n"
        "o, _ = chunk_rwkv7(r, w, k, v, -kk, kk * a, safe_gate=True, lower_bound=-0.6065306597126334, chunk_size=64)\n"
        "o = gate_output_correction(o.flatten(2), r, k, self.r_k, v, self.g(xg)).unsqueeze(2)",
    ),
    "gated slots": (
        "from fla.ops.gsa import chunk_gsa",
        "self.f_proj = nn.Linear(hidden_size, 8 * num_heads)",
        QKV + "g = F.logsigmoid(self.split(self.f_proj(x))) / 8\n"
        "o, _ = chunk_gsa(F.silu(q), F.silu(k), v, 1 - g.exp(), g)",
    ),
    "bounded memory": (
        "from fla.ops.abc import chunk_abc",
        "self.s_proj = nn.Linear(hidden_size, 8 * num_heads)",
        QKV + "o, _ = chunk_abc(q, k, v, self.split(self.s_proj(x)).clamp(-32, 32))",
    ),
    "based": (
        "from fla.ops.based import parallel_based",
        "self.features = nn.Linear(width, 8, bias=False)",
        QKV + "o = parallel_based(self.features(q), self.features(k), v)",
    ),
    "rebased": (
        "from fla.modules.feature_map import RebasedFeatureMap\nfrom fla.ops.rebased import parallel_rebased",
        "self.features, self.map = nn.Linear(width, 8, bias=False), RebasedFeatureMap(8)",
        QKV + "q, k = (self.map(self.features(part), flatten=False) for part in (q, k))\no = parallel_rebased(q, k, v)",
    ),
    "lightnet": ("from fla.ops.lightnet import chunk_lightnet", "pass", QKV + "o, _ = chunk_lightnet(F.silu(q), k, v)"),
    "rwkv 6": (
        "from fla.layers.rwkv6 import DDLerpLinear\nfrom fla.ops.rwkv6 import chunk_rwkv6",
        "self.w_proj = DDLerpLinear(hidden_size, hidden_size, 8)\n"
        "self.mu, self.u = nn.Parameter(torch.zeros(hidden_size)), nn.Parameter(torch.zeros(num_heads, width))",
        QKV + "o, _ = chunk_rwkv6(q, k, v, -self.split(self.w_proj(x, self.mu)).exp(), self.u, scale=1.0)",
    ),
    "gated delta product": (
        "from fla.ops.gated_delta_product import chunk_gated_delta_product",
        "self.more = nn.Linear(hidden_size, 2 * hidden_size + num_heads)\n"
        "self.b_proj = nn.Linear(hidden_size, 2 * num_heads)",
        QKV + "more_k, more_v, g = self.more(x).split([x.shape[-1], x.shape[-1], self.heads], dim=-1)\n"
        "k, v = (torch.stack(part, 2).flatten(1, 2) for part in ((k, self.split(more_k)), (v, self.split(more_v))))\n"
        "beta = self.split(self.b_proj(x).sigmoid(), 'b l (n h) -> b (l n) h')\n"
        "o, _ = chunk_gated_delta_product(q, k, v, F.logsigmoid(g), beta, 2, use_qk_l2norm_in_kernel=True)",
    ),
    "kimi delta attention": (
        "from fla.ops.kda import chunk_kda",
        "self.g_proj, self.b_proj = nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, num_heads)\n"
        "self.A_log, self.dt_bias = nn.Parameter(torch.rand(num_heads)), nn.Parameter(torch.rand(hidden_size))",
        QKV + "o, _ = chunk_kda(q, k, v, self.split(self.g_proj(x)), self.b_proj(x), A_log=self.A_log,\n"
        "    dt_bias=self.dt_bias, use_qk_l2norm_in_kernel=True, use_gate_in_kernel=True,\n"
        "    use_beta_sigmoid_in_kernel=True)",
    ),
}
ALWAYS = ("rwkv 7", "gated slots")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in CASES]
)
async def test_a_program_of_these_operators_passes_every_probe(name: str, sandbox: Sandbox) -> None:
    """Without a warning; the operators that the probes see are `services/fla_cpu`'s."""
    imports, constructor, forward = CASES[name]
    program = PROGRAM.format(
        imports=imports.strip(), constructor=indent(constructor, 8 * " "), forward=indent(forward, 8 * " ")
    )
    report = await check(program, sandbox, CheckSettings())

    assert [(verdict.probe, verdict.message) for verdict in report.verdicts if verdict.outcome != "pass"] == []
