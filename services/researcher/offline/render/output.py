"""Fragments from the heads' outputs back to the hidden width."""

from collections.abc import Iterator

from services.researcher.offline.description import Mixer, Output
from services.researcher.offline.render.fragment import Fragment

_SKIPS = {
    "channel": Fragment(
        construct="self.skip = nn.Parameter(torch.full((num_heads, self.head_v_dim), 0.1))",
        forward="o = o + self.skip * v  # the current value, past the memory",
    ),
    "gated": Fragment(
        construct="self.skip_gate = nn.Linear(hidden_size, num_heads)",
        forward="o = o + self.skip_gate(x).sigmoid()[..., None] * v  # the current value, past the memory",
    ),
}
_MIXINGS = {
    "static": Fragment(
        construct="self.head_mix = nn.Parameter(torch.eye(num_heads) + 0.02 * torch.randn(num_heads, num_heads))",
        forward='o = torch.einsum("blhd,hg->blgd", o, self.head_mix.to(o.dtype))  # heads talk to each other',
    ),
    "dynamic": Fragment(
        construct="""
            # a map over heads that the token decides, around the identity
            self.head_mix = nn.Linear(hidden_size, num_heads * num_heads)
        """,
        forward="""
            mix = rearrange(self.head_mix(x), "b l (h g) -> b l h g", h=self.num_heads).tanh()
            o = o + torch.einsum("blhd,blhg->blgd", o, mix.to(o.dtype)) / self.num_heads
        """,
    ),
}


def fragments(mixer: Mixer) -> Iterator[Fragment]:
    """Value skip, mixing of heads, normalisation, output gate and projection."""
    output = mixer.output
    if output.skip != "none":
        yield _SKIPS[output.skip]
    if output.mixing != "none":
        yield _MIXINGS[output.mixing]
    if output.gate != "none":
        yield _gate(output)
    yield from _norm(output)
    yield Fragment(
        construct="self.o_proj = nn.Linear(self.value_dim, hidden_size, bias=False)",
        forward='output = self.o_proj(rearrange(o, "b l h d -> b l (h d)").to(x.dtype))',
    )


def _gate(output: Output) -> Fragment:
    if output.gate == "head":
        return Fragment(
            construct="self.g_proj = nn.Linear(hidden_size, num_heads)",
            forward="gate = self.g_proj(x).sigmoid()[..., None]",
        )
    shape = 'rearrange({}, "b l (h d) -> b l h d", h=self.num_heads)'
    value = "self.g_proj(x)" + (".sigmoid()" if output.gate == "sigmoid" else "")
    if output.gate_rank == "full":
        construct = "self.g_proj = nn.Linear(hidden_size, self.value_dim, bias=False)"
    else:
        construct = """
            # output gate through a narrow bottleneck
            gate_rank = max(8, hidden_size // 32)
            down = nn.Linear(hidden_size, gate_rank, bias=False)
            self.g_proj = nn.Sequential(down, nn.Linear(gate_rank, self.value_dim))
        """
    return Fragment(construct=construct, forward=f"gate = {shape.format(value)}")


def _norm(output: Output) -> Iterator[Fragment]:
    if output.norm == "rms" and output.gate == "swish":
        yield Fragment(
            construct="self.o_norm = FusedRMSNormGated(self.head_v_dim, eps=norm_eps)",
            forward="o = self.o_norm(o, gate)",
            imports=("from fla.modules import FusedRMSNormGated",),
        )
        return
    if output.norm != "none":
        kind = "RMSNorm" if output.norm == "rms" else "nn.LayerNorm"
        yield Fragment(
            construct=f"self.o_norm = {kind}(self.head_v_dim, eps=norm_eps)",
            forward="o = self.o_norm(o)",
            imports=("from fla.modules import RMSNorm",) if output.norm == "rms" else (),
        )
    if output.gate != "none":
        yield Fragment(forward="o = o * F.silu(gate)" if output.gate == "swish" else "o = o * gate")
