"""Fragments for feature maps, normalisation and rotation of queries and keys."""

from collections.abc import Iterator

from services.researcher.offline.description import Mixer
from services.researcher.offline.render.fragment import Fragment
from services.researcher.offline.rules import reads_keys

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

_NORMS = {
    "l2": Fragment(
        forward="q, k = l2_norm(q), l2_norm(k)",
        imports=("from fla.modules.l2norm import l2_norm",),
    ),
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


def fragments(mixer: Mixer) -> Iterator[Fragment]:
    """Feature map, rotation and normalisation, in this order; nothing where no path reads keys."""
    if not reads_keys(mixer):
        return
    heads = "1" if mixer.inputs.key_width == "shared" else "num_heads"
    features = mixer.features
    if features.map in _MAPS:
        yield _for_heads(_MAPS[features.map], heads)
    if features.norm != "none":
        yield _NORMS[features.norm]
    if features.rotary != "none":
        yield Fragment(
            construct=_ROTATIONS[features.rotary].replace("{heads}", heads),
            forward="q, k = rotate(q, self.frequencies), rotate(k, self.frequencies)",
            helpers=("rotate",),
        )
    if mixer.inputs.key_width == "shared":
        yield Fragment(forward="q, k = (t.expand(-1, -1, self.num_heads, -1) for t in (q, k))")


def _for_heads(fragment: Fragment, heads: str) -> Fragment:
    return Fragment(fragment.construct.replace("{heads}", heads), fragment.forward, fragment.imports, fragment.helpers)
