"""Fragments from the hidden states to queries, keys and values, and what is done to queries and keys."""

from collections.abc import Iterator
from dataclasses import replace

from services.mixers.description import Mixer, reads_keys
from services.mixers.render.fragment import Fragment

_SHIFTS = {
    "half": Fragment(
        forward="""
            # half of the channels come from the token before
            half = x.shape[-1] // 2
            x = torch.cat([x[..., :half], previous(x[..., half:])], dim=-1)
        """,
        helpers=("previous",),
    ),
    "learned": Fragment(
        construct="self.shift = nn.Parameter(torch.full((hidden_size,), 0.25))  # share of the token before",
        forward="x = x + self.shift * (previous(x) - x)",
        helpers=("previous",),
    ),
    "canon": Fragment(
        construct="self.canon = ShortConvolution(hidden_size, 4, activation=None)  # beside the identity",
        forward="x = x + self.canon(x)[0]",
        imports=("from fla.modules import ShortConvolution",),
    ),
    "dynamic": Fragment(
        construct="""
            # how much of the token before a channel takes, decided by the token
            shift_rank = max(4, hidden_size // 32)
            self.shift_down = nn.Linear(hidden_size, shift_rank, bias=False)
            self.shift_up = nn.Linear(shift_rank, hidden_size)
            nn.init.constant_(self.shift_up.bias, -1.0)
        """,
        forward="x = x + self.shift_up(self.shift_down(x)).sigmoid() * (previous(x) - x)",
        helpers=("previous",),
    ),
}


def fragments(mixer: Mixer) -> Iterator[Fragment]:
    """Token shift, projections with their convolutions, heads."""
    if mixer.inputs.shift != "none":
        yield _SHIFTS[mixer.inputs.shift]
    yield _sizes(mixer)
    letters = ["q", "k", "v"] if reads_keys(mixer) else ["v"]
    for letter in letters:
        yield _projection(mixer, letter)
    if mixer.inputs.convolved:
        yield Fragment(arguments=(f"{_size_name(mixer)}: int = {mixer.inputs.conv_size}",))
    yield _heads(mixer)
    if mixer.inputs.value_norm:
        yield Fragment(
            construct="self.v_norm = RMSNorm(self.head_v_dim, eps=norm_eps)",
            forward="v = self.v_norm(v)",
            imports=("from fla.modules import RMSNorm",),
        )


def _sizes(mixer: Mixer) -> Fragment:
    lines = []
    if reads_keys(mixer):
        lines = {
            "full": ["self.key_dim = int(hidden_size * expand_k)", "self.head_k_dim = self.key_dim // num_heads"],
            "half": [
                "self.key_dim = int(hidden_size * expand_k) // 2  # half-width keys: their parameters go elsewhere",
                "self.head_k_dim = self.key_dim // num_heads",
            ],
            "shared": [
                "# one query and key, twice as wide as a head's, serve all heads",
                "self.head_k_dim = self.key_dim = 2 * int(hidden_size * expand_k) // num_heads",
            ],
        }[mixer.inputs.key_width]
    lines += ["self.value_dim = int(hidden_size * expand_v)", "self.head_v_dim = self.value_dim // num_heads"]
    arguments = ("expand_k: float = 1.0",) if reads_keys(mixer) else ()
    return Fragment(construct="\n".join(lines), arguments=(*arguments, "expand_v: float = 1.0"))


def _projection(mixer: Mixer, letter: str) -> Fragment:
    width = "self.value_dim" if letter == "v" else "self.key_dim"
    project = f"self.{letter}_proj = nn.Linear(hidden_size, {width}, bias=False)"
    active = letter == "v" or mixer.features.map == "silu"
    if letter not in mixer.inputs.convolved:
        call = f"self.{letter}_proj(x)"
        return Fragment(construct=project, forward=f"{letter} = {f'F.silu({call})' if active else call}")
    if letter == "k" and mixer.memory.rule == "product":
        return _several_keys(mixer, project)
    activation = '"silu"' if active else "None"
    size = _size_name(mixer)
    return Fragment(
        construct=f"{project}\nself.{letter}_conv = ShortConvolution({width}, {size}, activation={activation})",
        forward=f"{letter}, _ = self.{letter}_conv(self.{letter}_proj(x))",
        imports=("from fla.modules import ShortConvolution",),
    )


def _several_keys(mixer: Mixer, project: str) -> Fragment:
    activation = '"silu"' if mixer.features.map == "silu" else "None"
    return Fragment(
        construct=f"""
            {project}
            # each delta step sees the same projection through a short convolution of its own
            self.k_convs = nn.ModuleList(
                ShortConvolution(self.key_dim, {_size_name(mixer)}, activation={activation}) for _ in range(steps)
            )
        """,
        forward="""
            keys = self.k_proj(x)
            k = torch.cat([conv(keys)[0] for conv in self.k_convs], dim=-1)
        """,
        imports=("from fla.modules import ShortConvolution",),
        arguments=(f"steps: int = {mixer.memory.steps}",),
    )


def _size_name(mixer: Mixer) -> str:
    return "conv_size" if mixer.inputs.conv_size == 4 else "short_conv_size"


def _heads(mixer: Mixer) -> Fragment:
    v = 'v = rearrange(v, "b l (h d) -> b l h d", h=self.num_heads)'
    if not reads_keys(mixer):
        return Fragment(forward=v)
    heads = "1" if mixer.inputs.key_width == "shared" else "self.num_heads"
    if mixer.memory.rule == "product":
        return Fragment(
            construct="self.steps = steps",
            forward="""
                q, v = (rearrange(t, "b l (h d) -> b l h d", h=self.num_heads) for t in (q, v))
                k = rearrange(k, "b l (n h d) -> b l (n h) d", n=self.steps, h=self.num_heads)
            """,
        )
    return Fragment(forward=f'q, k = (rearrange(t, "b l (h d) -> b l h d", h={heads}) for t in (q, k))\n{v}')


_MAPS = {
    "elu": Fragment(forward="q, k = F.elu(q) + 1.0, F.elu(k) + 1.0  # positive features"),
    "relu": Fragment(forward="q, k = F.relu(q), F.relu(k)"),
    "squared_relu": Fragment(forward="q, k = F.relu(q).square(), F.relu(k).square()  # positive and sparse"),
    "softmax": Fragment(forward="q, k = q.softmax(dim=-1), k.softmax(dim=-1)  # each key is a soft one-hot"),
    "hedgehog": Fragment(
        construct="""
            # a learned map per head, then a softmax over the features and their negatives
            self.feature_map = nn.Parameter(
                torch.eye(self.head_k_dim).repeat({heads}, 1, 1)
                + 0.02 * torch.randn({heads}, self.head_k_dim, self.head_k_dim)
            )
            self.head_k_dim *= 2
        """,
        forward="""
            q, k = (torch.einsum("blhd,hde->blhe", t, self.feature_map) for t in (q, k))
            q, k = (torch.cat([t, -t], dim=-1).softmax(dim=-1) for t in (q, k))
        """,
    ),
}

_KEY_NORMS = {
    "l2": Fragment(forward="q, k = l2_norm(q), l2_norm(k)", imports=("from fla.modules.l2norm import l2_norm",)),
    "rms": Fragment(
        construct="""
            self.q_norm = RMSNorm(self.head_k_dim, eps=norm_eps)
            self.k_norm = RMSNorm(self.head_k_dim, eps=norm_eps)
        """,
        forward="q, k = self.q_norm(q), self.k_norm(k)",
        imports=("from fla.modules import RMSNorm",),
    ),
    "sum": Fragment(forward="q, k = (t / (t.sum(dim=-1, keepdim=True) + 1e-6) for t in (q, k))"),
}

_ROTATIONS = {
    "full": """
        # rotary phases: slow and fast pairs of channels
        pairs = self.head_k_dim // 2
        frequencies = 10000.0 ** (-torch.arange(pairs, dtype=torch.float32) / max(pairs, 1))
        self.register_buffer("frequencies", frequencies[None])
    """,
    "half": """
        # rotary phases on the first half of the channels; the rest carries no position
        pairs = max(self.head_k_dim // 4, 1)
        frequencies = 10000.0 ** (-torch.arange(pairs, dtype=torch.float32) / pairs)
        self.register_buffer("frequencies", frequencies[None])
    """,
    "learned": """
        # rotary phases whose speeds are learned per head
        pairs = self.head_k_dim // 2
        frequencies = 1000.0 ** (-torch.arange(pairs, dtype=torch.float32) / max(pairs, 1))
        self.frequencies = nn.Parameter(frequencies.repeat({heads}, 1))
    """,
}


def feature_fragments(mixer: Mixer) -> Iterator[Fragment]:
    """Feature map, normalisation and rotation, in this order; none if no path reads keys."""
    if not reads_keys(mixer):
        return
    heads = "1" if mixer.inputs.key_width == "shared" else "num_heads"
    features = mixer.features
    if features.map in _MAPS:
        fragment = _MAPS[features.map]
        yield replace(fragment, construct=fragment.construct.replace("{heads}", heads))
    if features.norm != "none":
        yield _KEY_NORMS[features.norm]
    if features.rotary != "none":
        yield Fragment(
            construct=_ROTATIONS[features.rotary].replace("{heads}", heads),
            forward="q, k = rotate(q, self.frequencies), rotate(k, self.frequencies)",
            helpers=("rotate",),
        )
    if mixer.inputs.key_width == "shared":
        yield Fragment(forward="q, k = (t.expand(-1, -1, self.num_heads, -1) for t in (q, k))")
