"""Fragments for additive memories, and for forms of them that are read in another way."""

from collections.abc import Iterator

from services.mixers.description import CHANNEL_DECAYS, LEVELS, SOLVED_FORMS, Memory, Mixer
from services.mixers.render.fragment import SIMPLE_GLA, Fragment, kernel_call


def linear_fragments(mixer: Mixer) -> Iterator[Fragment]:
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
            """
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
        return kernel_call("chunk_gla", "gla", f"q=q, k=k, v={written}, g=g")
    if mixer.memory.decay == "momentum":
        return Fragment(
            forward=f"""
                # S = a S + M with M = m M + k v is the difference of two memories that fade by a and by m
                slow, quick = (chunk_simple_gla(q=q, k=k, v={written}, g=rate)[0] for rate in (g, fast))
                a, m = (rate[..., None].exp() for rate in (g, fast))
                o = (a * slow - m * quick) / (a - m)
            """,
            imports=SIMPLE_GLA,
        )
    gate = "" if mixer.memory.decay == "none" else ", g=g"
    return kernel_call("chunk_simple_gla", "simple_gla", f"q=q, k=k, v={written}{gate}")


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
                imports=SIMPLE_GLA,
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
                imports=("import math", *SIMPLE_GLA),
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
            imports=SIMPLE_GLA,
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
        imports=SIMPLE_GLA,
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
