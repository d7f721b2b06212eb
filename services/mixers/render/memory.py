"""Fragments for the recurrent memory, and from the heads' outputs back to the hidden width."""

from collections.abc import Iterator

from services.mixers.description import CHANNEL_DECAYS, LEVELS, SOLVED_FORMS, Memory, Mixer, Output
from services.mixers.render.fragment import Fragment

_SIMPLE_GLA = ("from fla.ops.simple_gla import chunk_simple_gla",)
_RETENTION = """
    # fixed forgetting, from fast heads to slow ones
    spans = torch.linspace(math.log(1 / 32), math.log(1 / 512), num_heads)
    self.register_buffer("log_decay", torch.log1p(-spans.exp()))
"""
_DECAYS = {
    "retention": Fragment(
        construct=_RETENTION,
        forward="g = self.log_decay.expand(x.shape[0], x.shape[1], -1)",
        imports=("import math",),
    ),
    "momentum": Fragment(
        construct=_RETENTION
        + """
    # what is written fades from a running sum of its own, faster than the memory
    self.momentum = nn.Parameter(torch.zeros(num_heads))
""",
        forward="""
            g = self.log_decay.expand(x.shape[0], x.shape[1], -1)
            fast = (F.logsigmoid(self.momentum) + math.log(0.9)).expand(x.shape[0], x.shape[1], -1)
        """,
        imports=("import math",),
    ),
    "mamba": Fragment(
        construct="""
            # forget gate exp(-rate * step): a rate per head, a step size decided by the token
            self.log_rate = nn.Parameter(torch.log(torch.linspace(1.0, 16.0, num_heads)))
            self.step_proj = nn.Linear(hidden_size, num_heads, bias=False)
            step = torch.exp(torch.linspace(math.log(0.001), math.log(0.1), num_heads))
            self.step_bias = nn.Parameter(torch.log(torch.expm1(step)))  # inverse of softplus
        """,
        forward="g = -self.log_rate.float().exp() * F.softplus(self.step_proj(x).float() + self.step_bias.float())",
        imports=("import math",),
    ),
    "sigmoid": Fragment(
        construct="""
            # forget gate per head, decided by the token, near 1 at first
            self.forget_proj = nn.Linear(hidden_size, num_heads)
            with torch.no_grad():
                self.forget_proj.bias.copy_(torch.linspace(3.0, 6.0, num_heads))
        """,
        forward="g = F.logsigmoid(self.forget_proj(x).float())",
    ),
    "channel": Fragment(
        construct="""
            # forget gate per key channel through a narrow bottleneck
            self.forget_down = nn.Linear(hidden_size, 16, bias=False)
            self.forget_up = nn.Linear(16, num_heads * self.head_k_dim)
        """,
        forward="""
            g = F.logsigmoid(self.forget_up(self.forget_down(x)).float()) / 16.0
            g = rearrange(g, "b l (h d) -> b l h d", h=self.num_heads)
        """,
    ),
    "sparse": Fragment(
        construct="""
            # each token chooses the quarter of the key channels that fade, by a router through a narrow bottleneck
            self.route_down = nn.Linear(hidden_size, 16, bias=False)
            self.route_up = nn.Linear(16, num_heads * self.head_k_dim)
            self.log_rate = nn.Parameter(torch.zeros(num_heads, 1))
        """,
        forward="""
            route = self.route_up(self.route_down(x)).float().sigmoid()
            route = rearrange(route, "b l (h d) -> b l h d", h=self.num_heads)
            least = route.topk(max(1, route.shape[-1] // 4), dim=-1).values[..., -1:]
            g = -self.log_rate.float().exp() * route * (route >= least)
        """,
    ),
    "floored": Fragment(
        construct="""
            # forget gate per key channel that never falls below a learned floor
            self.forget_down = nn.Linear(hidden_size, 16, bias=False)
            self.forget_up = nn.Linear(16, num_heads * self.head_k_dim)
            self.forget_floor = nn.Parameter(torch.linspace(1.0, 4.0, num_heads)[:, None])
        """,
        forward="""
            forget = self.forget_up(self.forget_down(x)).float().sigmoid()
            forget = rearrange(forget, "b l (h d) -> b l h d", h=self.num_heads)
            floor = self.forget_floor.float().sigmoid()
            g = torch.log(floor + (1.0 - floor) * forget)
        """,
    ),
}


def fragments(mixer: Mixer) -> Iterator[Fragment]:
    """The memory's gates and its kernel call, which assigns `o`; none without a memory."""
    memory = mixer.memory
    if memory.rule == "none":
        return
    if memory.decay != "none":
        yield _DECAYS[memory.decay]
    if memory.tied:
        yield Fragment(forward="k = k * (1.0 - g.exp()).to(k.dtype)  # write only where something was forgotten")
    if memory.feedback:
        yield Fragment(
            construct="self.feedback = nn.Parameter(torch.full((num_heads, 1), 0.02))",
            forward="q = q - self.feedback * k  # what the key itself would read is corrected",
        )
    yield from _linear(mixer) if memory.rule == "linear" else _delta(mixer)


def _delta(mixer: Mixer) -> Iterator[Fragment]:
    memory = mixer.memory
    product = memory.rule == "product"
    if memory.write == "split":
        yield from _split(memory.decay)
        return
    if memory.write == "one":
        count = "x.shape[1] * self.steps" if product else "x.shape[1]"
        yield Fragment(
            forward=f"beta = v.new_ones(x.shape[0], {count}, self.num_heads)  # every write replaces in full"
        )
    elif memory.write == "implicit":
        yield Fragment(
            construct="self.write_proj = nn.Linear(hidden_size, num_heads)",
            forward="""
                # the step to the minimiser of |S - S_before|^2 + weight |S k - v|^2: no key makes it unstable
                weight = F.softplus(self.write_proj(x).float())
                beta = (weight / (1.0 + weight * k.float().square().sum(dim=-1))).to(v.dtype)
            """,
        )
    else:
        yield _beta(memory.write == "double", product)
    if memory.write == "preconditioned":
        yield from _preconditioned(memory.decay != "none")
        return
    if product:
        yield _product_call(memory.decay != "none")
    elif memory.decay in CHANNEL_DECAYS:
        yield _call("chunk_kda", "kda", "q=q, k=k, v=v, g=g, beta=beta")
    elif memory.decay == "none":
        yield _call("chunk_delta_rule", "delta_rule", "q=q, k=k, v=v, beta=beta")
    else:
        yield _call("chunk_gated_delta_rule", "gated_delta_rule", "q=q, k=k, v=v, g=g, beta=beta")


def _preconditioned(decays: bool) -> Iterator[Fragment]:
    """Only writing keys are scaled, by at most 1.5, so that steps remain stable."""
    if decays:
        energy = """
            one = torch.ones_like(k[..., :1])
            energy, _ = chunk_simple_gla(q=one, k=one, v=beta[..., None] * k.square(), g=g, scale=1.0)
        """
        erasing = (
            "p = k * g.exp()[..., None].to(k.dtype)  # the kernel erases before it decays: this is the other order"
        )
    else:
        energy = "energy = (beta[..., None] * k.square()).float().cumsum(dim=1)"
        erasing = "p = k"
    yield Fragment(
        construct="self.energy_centre = nn.Parameter(torch.full((num_heads, 1), -0.2))  # of the log energy",
        forward=energy,
        imports=_SIMPLE_GLA if decays else (),
    )
    yield Fragment(
        forward=f"""
            excess = torch.log(energy.float() + 1e-6) - self.energy_centre  # of features that were written much
            scaled = k * torch.exp(-math.log(1.5) * excess / (1.0 + excess.abs())).to(k.dtype)
            {erasing}
            o, _ = chunk_comba(q=q, k=scaled, v=v, p=p, g={"g" if decays else "torch.zeros_like(beta)"}, beta=beta)
        """,
        imports=("import math", "from fla.ops.comba import chunk_comba"),
    )


def _split(decay: str) -> Iterator[Fragment]:
    """Erase gates per key channel and write gates per value channel; the kernel wants a decay per key channel."""
    yield Fragment(
        construct="""
            # what is erased per key channel and written per value channel, through a narrow bottleneck
            gate_down = max(8, hidden_size // 32)
            self.gate_down = nn.Linear(hidden_size, gate_down, bias=False)
            self.erase_up = nn.Linear(gate_down, num_heads * self.head_k_dim)
            self.write_up = nn.Linear(gate_down, self.value_dim)
        """,
        forward="""
            gates = self.gate_down(x)
            erase = rearrange(self.erase_up(gates).sigmoid(), "b l (h d) -> b l h d", h=self.num_heads)
            write = rearrange(self.write_up(gates).sigmoid(), "b l (h d) -> b l h d", h=self.num_heads)
        """,
    )
    if decay == "none":
        yield Fragment(forward="g = torch.zeros_like(k)  # nothing fades")
    elif decay not in CHANNEL_DECAYS:
        yield Fragment(forward="g = g[..., None].expand_as(k)")
    yield _call("chunk_gdn2", "gdn2", "q=q, k=k, v=v, g=g, b=erase, w=write")


def _beta(double: bool, product: bool) -> Fragment:
    note = "  # above 1 a state may flip its sign" if double else ""
    factor = "2.0 * " if double else ""
    if not product:
        return Fragment(
            construct="self.write_proj = nn.Linear(hidden_size, num_heads, bias=False)",
            forward=f"beta = {factor}self.write_proj(x).sigmoid(){note}",
        )
    return Fragment(
        construct="self.write_proj = nn.Linear(hidden_size, steps * num_heads, bias=False)",
        forward=f"""
            beta = {factor}self.write_proj(x).sigmoid(){note}
            beta = rearrange(beta, "b l (n h) -> b (l n) h", n=self.steps)
        """,
    )


def _product_call(decays: bool) -> Fragment:
    forget = "gated_" if decays else ""
    g = "\ng = F.pad(g[:, :, None], (0, 0, 0, self.steps - 1)).flatten(1, 2)  # forget once per token" if decays else ""
    kernel = f"chunk_{forget}delta_rule"
    argument = " g=g," if decays else ""
    lines = f"""
# several delta steps per token, laid out as a longer sequence; the last step of each token is read
keys = rearrange(k, "b l (n h) d -> b (l n) h d", n=self.steps)
queries, values = (t.repeat_interleave(self.steps, dim=1) for t in (q, v)){g}
o, _ = {kernel}(q=queries, k=keys, v=values,{argument} beta=beta)
o = o[:, self.steps - 1 :: self.steps]
k = k[:, :, -self.num_heads :]"""
    return Fragment(forward=lines, imports=(f"from fla.ops.{forget}delta_rule import {kernel}",))


def _linear(mixer: Mixer) -> Iterator[Fragment]:
    memory = mixer.memory
    written = "v"
    if memory.write == "sigmoid":
        written = "written"
        yield Fragment(
            construct="self.write_proj = nn.Linear(hidden_size, num_heads, bias=False)",
            forward="""
                strength = self.write_proj(x).sigmoid()[..., None]
                written = v * strength
            """
            if memory.form in {*SOLVED_FORMS, "ages"}
            else "written = v * self.write_proj(x).sigmoid()[..., None]",
        )
    if memory.write == "channel":
        written = "written"
        yield _CHANNEL_WRITE
    if memory.normalised:
        yield Fragment(
            forward=f"""
                ones = present[:, :, None, None].expand_as(v[..., :1]).to(v.dtype)
                weighed = torch.cat([{written}, ones], dim=-1)
            """,
        )
        written = "weighed"
    if memory.form == "plain":
        yield _linear_call(mixer, written)
    else:
        yield _form(memory, written)
    if memory.normalised:
        yield Fragment(forward="o = o[..., :-1] / (o[..., -1:] + 1e-4)  # the last column holds the sum of weights")
    if memory.bonus:
        yield Fragment(
            construct="self.bonus = nn.Parameter(0.1 * torch.ones(num_heads, 1))",
            forward="o = o + self.bonus * (q * k).sum(dim=-1, keepdim=True) * v  # the current token once more",
        )


def _linear_call(mixer: Mixer, written: str) -> Fragment:
    if mixer.memory.decay in CHANNEL_DECAYS:
        return _call("chunk_gla", "gla", f"q=q, k=k, v={written}, g=g")
    if mixer.memory.decay == "momentum":
        return Fragment(
            forward=f"""
                # S = a S + M with M = m M + k v is the difference of two memories that fade by a and by m
                slow, quick = (chunk_simple_gla(q=q, k=k, v={written}, g=rate)[0] for rate in (g, fast))
                a, m = (rate[..., None].exp() for rate in (g, fast))
                o = (a * slow - m * quick) / (a - m)
            """,
            imports=_SIMPLE_GLA,
        )
    gate = "" if mixer.memory.decay == "none" else ", g=g"
    return _call("chunk_simple_gla", "simple_gla", f"q=q, k=k, v={written}{gate}")


def _form(memory: Memory, written: str) -> Fragment:
    gate = "" if memory.decay == "none" else ", g=g"
    match memory.form:
        case "trapezoid":
            fade = "" if memory.decay == "none" else " * g.exp()[..., None]"
            return Fragment(
                construct="""
                    # the share of a write that counts at once; the rest counts one token later
                    self.share_proj = nn.Linear(hidden_size, num_heads)
                    nn.init.constant_(self.share_proj.bias, 1.0)
                """,
                forward=f"""
                    share = self.share_proj(x).sigmoid()[..., None]
                    k_before, late = (F.pad(t, (0, 0, 0, 0, 1, -1)) for t in (k, {written}))
                    late = (1.0 - share) * late{fade}
                    o, _ = chunk_simple_gla(q=q, k=k, v=share * {written}{gate})
                    o = o + chunk_simple_gla(q=q, k=k_before, v=late{gate})[0]
                """,
                imports=_SIMPLE_GLA,
            )
        case "levels":
            return Fragment(
                construct=f"""
                    # spans of 1, 2, 4, … tokens, each with a weight that the token decides, 1 at first
                    self.span_proj = nn.Linear(hidden_size, {LEVELS} * num_heads)
                """,
                forward=f"""
                    span_weights = rearrange(self.span_proj(x), "b l (h s) -> b l h s", h=self.num_heads)
                    span_weights = 2.0 * span_weights.sigmoid()
                    o = spans_attention(q, k, {written}, span_weights{gate.replace("g=", "")})
                """,
                helpers=("spans_attention",),
            )
        case "ages":
            strength, values = (
                ("strength", "v") if memory.write == "sigmoid" else ("torch.ones_like(v[..., :1])", written)
            )
            return Fragment(
                construct="""
                    # how fast the clock of a head runs, one age per token at most, and how sharply ages are told apart
                    self.clock_proj = nn.Linear(hidden_size, num_heads)
                    with torch.no_grad():
                        self.clock_proj.bias.copy_(torch.linspace(1.0, -3.0, num_heads))
                    self.age_sharpness = nn.Parameter(torch.full((num_heads, 1), 1.0))
                """,
                forward=f"""
                    speed = self.clock_proj(x).sigmoid()
                    o = read_by_age(q * self.age_sharpness.exp(), k, {values}, {strength}, speed{gate})
                """,
                imports=("import math", *_SIMPLE_GLA),
                helpers=("read_by_age",),
            )
        case "householder":
            return _householder(memory.decay != "none", written)
        case "mesa" | "ridge":
            return _solved(memory, written, gate)
    raise ValueError(f"memory.form {memory.form!r} has no program")


def _householder(decays: bool, written: str) -> Fragment:
    """Two steps per token: the first reflects the state, the second decays it and adds to it."""
    gate = "F.pad(g[:, :, None], (0, 0, 1, 0)).flatten(1, 2)" if decays else "k.new_zeros(turned.shape[:3])"
    return Fragment(
        construct="""
            # a direction per token, through a narrow bottleneck and a short convolution, and how far to turn from it
            turn_rank = max(8, hidden_size // 32)
            self.turn_down = nn.Linear(hidden_size, turn_rank, bias=False)
            self.turn_up = nn.Linear(turn_rank, num_heads * self.head_k_dim, bias=False)
            self.turn_conv = ShortConvolution(num_heads * self.head_k_dim, 3, activation="silu")
            self.turn_proj = nn.Linear(hidden_size, num_heads)
        """,
        forward=f"""
            turn = self.turn_conv(self.turn_up(self.turn_down(x)))[0]
            turn = l2_norm(rearrange(turn, "b l (h d) -> b l h d", h=self.num_heads))
            # a step that reflects, S (I - angle w w'), then one that decays and adds, as one longer sequence
            nothing = torch.zeros_like(k)
            turned = torch.stack([turn, k], dim=2).flatten(1, 2)
            erased = torch.stack([turn, nothing], dim=2).flatten(1, 2)
            queries = torch.stack([nothing, q], dim=2).flatten(1, 2)
            values = F.pad({written}[:, :, None], (0, 0, 0, 0, 1, 0)).flatten(1, 2)
            angle = 2.0 * self.turn_proj(x).sigmoid()  # 1 projects, 2 reflects
            strengths = torch.stack([angle, torch.ones_like(angle)], dim=2).flatten(1, 2)
            faded = {gate}
            o, _ = chunk_comba(q=queries, k=turned, v=values, p=erased, g=faded, beta=strengths)
            o = o[:, 1::2]
        """,
        imports=(
            "from fla.modules import ShortConvolution",
            "from fla.modules.l2norm import l2_norm",
            "from fla.ops.comba import chunk_comba",
        ),
    )


def _solved(memory: Memory, written: str, gate: str) -> Fragment:
    """The covariance of the keys and the memory of values use the same write weights."""
    weights = "strength.squeeze(-1)" if memory.write == "sigmoid" else "torch.ones_like(v[..., 0])"
    covariance = f"Covariance(k, {weights}{gate.replace('g=', '')})"
    if memory.form == "mesa":
        return Fragment(
            construct="""
                # a ridge per channel, at least 0.25
                self.solve_steps = solve_steps
                self.ridge = nn.Parameter(torch.zeros(num_heads, self.head_k_dim))
            """,
            forward=f"""
                solved = conjugate_gradients({covariance}, q, 0.25 + F.softplus(self.ridge), self.solve_steps)
                o, _ = chunk_simple_gla(q=solved.to(q.dtype), k=k, v={written}{gate})
            """,
            imports=_SIMPLE_GLA,
            helpers=("conjugate_gradients",),
            arguments=("solve_steps: int = 6",),
        )
    return Fragment(
        construct="""
            # the token decides how strongly its read is regularised
            self.solve_steps = solve_steps
            self.ridge_proj = nn.Linear(hidden_size, num_heads)
        """,
        forward=f"""
            share = 0.5 + F.softplus(self.ridge_proj(x))[..., None]
            solved = chebyshev({covariance}, q, share, self.solve_steps)
            o, _ = chunk_simple_gla(q=solved.to(q.dtype), k=k, v={written}{gate})
        """,
        imports=_SIMPLE_GLA,
        helpers=("chebyshev",),
        arguments=("solve_steps: int = 8",),
    )


_CHANNEL_WRITE = Fragment(
    construct="""
            # how strongly each value channel is written, through a narrow bottleneck
            write_rank = max(8, hidden_size // 32)
            self.write_down = nn.Linear(hidden_size, write_rank, bias=False)
            self.write_up = nn.Linear(write_rank, self.value_dim)
        """,
    forward="""
            write = self.write_up(self.write_down(x)).sigmoid()
            written = v * rearrange(write, "b l (h d) -> b l h d", h=self.num_heads)
        """,
)


def _call(kernel: str, module: str, arguments: str) -> Fragment:
    return Fragment(forward=f"o, _ = {kernel}({arguments})", imports=(f"from fla.ops.{module} import {kernel}",))


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
