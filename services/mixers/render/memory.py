"""Fragments for the recurrent memory: its gates and the delta rules."""

from collections.abc import Iterator

from services.mixers.description import CHANNEL_DECAYS, Mixer
from services.mixers.render.fragment import SIMPLE_GLA, Fragment, kernel_call
from services.mixers.render.linear import linear_fragments

_RETENTION = """
    # fixed forgetting, from fast heads to slow ones
    spans = torch.linspace(math.log(1 / 32), math.log(1 / 512), num_heads)
    self.register_buffer("log_decay", torch.log1p(-spans.exp()))
"""
_DECAYS = {
    "retention": Fragment(
        construct=_RETENTION, forward="g = self.log_decay.expand(x.shape[0], x.shape[1], -1)", imports=("import math",)
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
    yield from linear_fragments(mixer) if memory.rule == "linear" else _delta(mixer)


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
        yield kernel_call("chunk_kda", "kda", "q=q, k=k, v=v, g=g, beta=beta")
    elif memory.decay == "none":
        yield kernel_call("chunk_delta_rule", "delta_rule", "q=q, k=k, v=v, beta=beta")
    else:
        yield kernel_call("chunk_gated_delta_rule", "gated_delta_rule", "q=q, k=k, v=v, g=g, beta=beta")


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
        imports=SIMPLE_GLA if decays else (),
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
    yield kernel_call("chunk_gdn2", "gdn2", "q=q, k=k, v=v, g=g, b=erase, w=write")


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
