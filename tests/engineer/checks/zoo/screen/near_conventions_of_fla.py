"""Gated linear attention by the conventions of fla's layers."""

from __future__ import annotations

from contextlib import nullcontext
from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from fla.modules import FusedRMSNormGated
from fla.ops.gla import chunk_gla
from typing_extensions import Unpack

if TYPE_CHECKING:
    from fla.models.utils import Cache


class Gate(Enum):
    SWISH = "swish"


class GatedLinearAttention(nn.Module):
    def __init__(
        self,
        hidden_size=1024,
        num_heads=4,
        expand_k=0.5,
        expand_v=1.0,
        gate_low_rank_dim=16,
        gate_logit_normalizer=16,
        layer_idx=None,
        gate_fn=Gate.SWISH,
        elementwise_affine=True,
        norm_eps=1e-5,
        **kwargs,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.key_dim, self.value_dim = int(hidden_size * expand_k), int(hidden_size * expand_v)
        self.head_k_dim, self.head_v_dim = self.key_dim // num_heads, self.value_dim // num_heads
        self.gate_logit_normalizer = gate_logit_normalizer
        self.q_proj = nn.Linear(hidden_size, self.key_dim, bias=False)
        self.k_proj = nn.Linear(hidden_size, self.key_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, self.value_dim, bias=False)
        self.g_proj = nn.Linear(hidden_size, self.value_dim, bias=False)
        self.gk_proj = nn.Sequential(
            nn.Linear(hidden_size, gate_low_rank_dim, bias=False), nn.Linear(gate_low_rank_dim, self.key_dim, bias=True)
        )
        self.o_proj = nn.Linear(self.value_dim, hidden_size, bias=False)
        self.g_norm_swish_gate = FusedRMSNormGated(self.head_v_dim, elementwise_affine, norm_eps)
        self.layer_idx = layer_idx
        self.reset_parameters()

    def reset_parameters(self):
        try:
            from transformers.modeling_utils import _init_weights as wanted
        except ImportError:
            wanted = True
        if not wanted:
            return
        for m in chain(self.modules()):
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight, gain=2**-2.5)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = False,
        output_attentions: bool | None = False,
        **kwargs: Unpack[dict],
    ) -> tuple[torch.Tensor, torch.Tensor | None, Cache | None]:
        q, k, v = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        gk = self.gk_proj(hidden_states)
        if attention_mask is not None:
            v = v.mul_(attention_mask[:, -v.shape[-2] :, None])
        q, k, gk = (rearrange(x, "... (h d) -> ... h d", d=self.head_k_dim) for x in (q, k, gk))
        v = rearrange(v, "... (h d) -> ... h d", d=self.head_v_dim)
        gk = F.logsigmoid(gk) / self.gate_logit_normalizer
        last = past_key_values[self.layer_idx]["recurrent_state"] if past_key_values else None
        with nullcontext():
            o, _state = chunk_gla(q, k, v, gk, initial_state=last, output_final_state=use_cache)
        g = rearrange(self.g_proj(hidden_states), "... (h d) -> ... h d", d=self.head_v_dim)
        o = rearrange(self.g_norm_swish_gate(o, g), "... h d -> ... (h d)")
        return self.o_proj(o), None, past_key_values
