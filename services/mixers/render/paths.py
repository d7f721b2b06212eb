"""Fragments for the paths parallel to the memory, their fusion, and from the heads back to the hidden width."""

from collections.abc import Iterator

from services.mixers.description import Fusion, Mixer, Output, Path, branches
from services.mixers.render.fragment import SIMPLE_GLA, Fragment

GATE_FLOOR = 0.04
_VARIABLES = {"value": "v", "convolution": "local", "multi_scale": "scales"}

_CONVOLUTION = """
    # a path of its own for the neighbourhood: {size} taps per channel
    self.{name}_taps = nn.Parameter(torch.empty(self.value_dim, 1, {size}).uniform_(-1, 1) / {size}**0.5)
"""


def fragments(mixer: Mixer) -> Iterator[Fragment]:
    """Each path assigns a variable named after its kind; the fusion combines them in `o`."""
    for path in mixer.paths:
        yield _path(path)
    names = ["o"] if mixer.memory.rule != "none" else []
    names += [_VARIABLES.get(path.kind, path.kind) for path in mixer.paths]
    if branches(mixer) > 1:
        yield from _fusion(mixer.fusion, names)
    elif mixer.paths:
        yield Fragment(forward=f"o = {names[0]}")


def _path(path: Path) -> Fragment:
    match path.kind:
        case "convolution":
            return _convolution("local", path.size, 1)
        case "dilated":
            return _convolution("dilated", path.size, 4)
        case "average":
            return _average(path.size)
        case "window" | "linear_window" | "forgetting":
            return _window(path.kind, path.size)
        case _:
            return _UNSIZED[path.kind]


def _convolution(name: str, size: int, dilation: int) -> Fragment:
    spread = f", dilation={dilation}" if dilation > 1 else ""
    return Fragment(
        construct=_CONVOLUTION.format(name=name, size=size),
        forward=f"{name} = causal_conv(v, self.{name}_taps{spread})",
        helpers=("causal_conv",),
    )


_UNSIZED = {
    "value": Fragment(),
    "multi_scale": Fragment(
        construct="""
            # short, middle and long filters; each token chooses its scale per head
            self.scale_taps = nn.ParameterList(
                nn.Parameter(torch.empty(self.value_dim, 1, taps).uniform_(-1, 1) / taps**0.5) for taps in (3, 7, 15)
            )
            self.scale_gate = nn.Linear(hidden_size, 3 * num_heads)
        """,
        forward="""
            choice = rearrange(self.scale_gate(x), "b l (h s) -> s b l h 1", s=3).softmax(dim=0)
            scales = sum(share * causal_conv(v, taps) for share, taps in zip(choice, self.scale_taps))
        """,
        helpers=("causal_conv",),
    ),
    "retention": Fragment(
        construct="""
            # a second, slower memory with fixed forgetting that adds up instead of replacing
            slow = torch.exp(torch.linspace(math.log(1 / 64), math.log(1 / 2048), num_heads))
            self.register_buffer("slow_log_decay", torch.log1p(-slow))
        """,
        forward="""
            slow_g = self.slow_log_decay.expand(x.shape[0], x.shape[1], -1)
            retention, _ = chunk_simple_gla(q=q, k=k, v=v, g=slow_g)
        """,
        imports=("import math", *SIMPLE_GLA),
    ),
    "routed": Fragment(
        construct="""
            # two more memories beside the shared one: each token writes into one of them, and reads what it wrote into
            self.route = nn.Linear(hidden_size, 2 * num_heads)
            routed_decay = torch.exp(torch.linspace(math.log(1 / 64), math.log(1 / 2048), num_heads))
            self.register_buffer("routed_log_decay", torch.log1p(-routed_decay))
        """,
        forward="""
            chances = rearrange(self.route(x), "b l (h m) -> b l h m", m=2).softmax(dim=-1).to(v.dtype)
            chosen = (chances == chances.amax(dim=-1, keepdim=True)).to(v.dtype)
            routed_g = self.routed_log_decay.expand(x.shape[0], x.shape[1], -1)
            routed = sum(
                (share * choice)[..., None] * chunk_simple_gla(q=q, k=k * choice[..., None], v=v, g=routed_g)[0]
                for share, choice in zip(chances.unbind(dim=-1), chosen.unbind(dim=-1))
            )
        """,
        imports=("import math", *SIMPLE_GLA),
    ),
}


def _average(taps: int) -> Fragment:
    return Fragment(
        construct=f"""
            # exponential average of the values, {taps} tokens deep, with a learned speed per channel
            self.average_speed = nn.Parameter(torch.linspace(-3.0, 1.0, self.value_dim))
        """,
        forward=f"""
            speed = self.average_speed.float().sigmoid()[:, None]
            ages = torch.arange({taps - 1}, -1, -1, device=x.device)
            average = causal_conv(v, (speed * (1.0 - speed) ** ages)[:, None])
        """,
        helpers=("causal_conv",),
    )


def _window(name: str, size: int) -> Fragment:
    construct = f"""
        # softmax attention over the last {size} tokens; queries and keys are scaled by a learned sharpness
        self.{name}_sharpness = nn.Parameter(torch.full((num_heads, 1), 1.0))
    """
    before = argument = ""
    if name == "forgetting":
        construct += """
        self.score_forget = nn.Linear(hidden_size, num_heads)
        nn.init.constant_(self.score_forget.bias, 3.0)
    """
        before, argument = "log_forget = F.logsigmoid(self.score_forget(x).float())\n", ", log_forget"
    if name == "linear_window":
        construct += """
        # a second query, near zero at first, which probes how values covary with keys inside the window
        self.probe_proj = nn.Linear(hidden_size, num_heads * self.head_k_dim, bias=False)
        nn.init.normal_(self.probe_proj.weight, std=0.1 * hidden_size**-0.5)
    """
        before, argument = (
            'probe = rearrange(self.probe_proj(x), "b l (h d) -> b l h d", h=self.num_heads)\n', ", probe=probe"
        )  # fmt: skip
    return Fragment(
        construct=construct,
        forward=f"{before}{name} = window_attention(q * self.{name}_sharpness.exp(), k, v, {size}, present{argument})",
        helpers=("window_attention",),
    )


def _fusion(fusion: Fusion, names: list[str]) -> Iterator[Fragment]:
    if fusion.kind == "sum":
        yield Fragment(forward=f"o = {' + '.join(names)}")
        return
    count = len(names)
    yield Fragment(
        construct=f"""
            # how much each of the {count} paths counts, per token and head
            self.path_gate = nn.Linear(hidden_size, {count} * num_heads)
        """,
        forward=f"""
            paths = ({", ".join(names)})
            logits = rearrange(self.path_gate(x), "b l (h p) -> b l h p", p={count})
        """,
    )
    if fusion.evidence == "statistics":
        yield _statistics(count)
    if fusion.temperature:
        yield Fragment(
            construct="self.gate_sharpness = nn.Parameter(torch.zeros(num_heads, 1))  # log of the inverse temperature",
            forward="logits = logits * self.gate_sharpness.exp()",
        )
    yield Fragment(forward=_WEIGHTS[fusion.kind])
    if fusion.floor:
        yield _floor(fusion.kind, count)
    yield Fragment(forward="o = sum(weight[..., None] * path for weight, path in zip(weights.unbind(dim=-1), paths))")


def _statistics(count: int) -> Fragment:
    return Fragment(
        construct=f"""
            # the gate also sees each path's mean and mean size
            self.statistics_gate = nn.Linear({2 * count}, {count}, bias=False)
        """,
        forward="""
            statistics = [s for path in paths for s in (path.mean(dim=-1), path.abs().mean(dim=-1))]
            logits = logits + self.statistics_gate(torch.stack(statistics, dim=-1).to(x.dtype))
        """,
    )


_WEIGHTS = {
    "sigmoid": "weights = logits.sigmoid()",
    "softmax": "weights = logits.softmax(dim=-1)",
    "hierarchical": """
        # first the memory against the rest, then the rest among themselves
        first = logits[..., :1].sigmoid()
        weights = torch.cat([first, (1.0 - first) * logits[..., 1:].softmax(dim=-1)], dim=-1)
    """,
}


def _floor(kind: str, count: int) -> Fragment:
    rest = "1.0 - self.gate_floor" if kind == "sigmoid" else f"1.0 - {count} * self.gate_floor"
    return Fragment(
        construct="self.gate_floor = gate_floor",
        forward=f"weights = self.gate_floor + ({rest}) * weights  # none dies",
        arguments=(f"gate_floor: float = {GATE_FLOOR}",),
    )


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


def output_fragments(mixer: Mixer) -> Iterator[Fragment]:
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
