"""Fragments from the hidden states to queries, keys and values."""

from collections.abc import Iterator

from services.researcher.offline.description import Mixer
from services.researcher.offline.render.fragment import Fragment
from services.researcher.offline.rules import reads_keys

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
        yield _convolution_size(mixer)
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


def _convolution_size(mixer: Mixer) -> Fragment:
    return Fragment(arguments=(f"{_size_name(mixer)}: int = {mixer.inputs.conv_size}",))


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
