"""Fragments: the code that one choice of a description adds to the program; and the helper functions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from textwrap import dedent, indent

SIMPLE_GLA = ("from fla.ops.simple_gla import chunk_simple_gla",)


@dataclass(frozen=True)
class Fragment:
    """Imports, helper functions and lines of code of one choice.

    `construct` goes into `__init__`, `forward` into `forward`, each as a block that is dedented on assembly;
    `helpers` names functions of `HELPERS`; `arguments` are extra constructor arguments with defaults.
    """

    construct: str = ""
    forward: str = ""
    imports: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


def kernel_call(kernel: str, module: str, arguments: str) -> Fragment:
    """The read `o` by one of fla's operators."""
    return Fragment(forward=f"o, _ = {kernel}({arguments})", imports=(f"from fla.ops.{module} import {kernel}",))


def block(parts: Iterable[str], depth: int) -> str:
    """Join code blocks, indented by `depth` levels; empty ones are skipped."""
    return "\n".join(indent(dedent(part).strip("\n"), "    " * depth) for part in parts if part.strip())


def unique(items: Iterable[str]) -> list[str]:
    """The items in order of first appearance."""
    return list(dict.fromkeys(items))


# Helper functions of rendered programs, as text: this package does not import torch.
_COVARIANCE = '''
class Covariance:
    """For each token the faded sum of w k kᵀ until it, as a map of vectors; no matrix per token is ever made.

    k: [batch, length, heads, channels]; w, log_decay: [batch, length, heads]; w ≥ 0, log_decay ≤ 0.
    """

    def __init__(self, k: torch.Tensor, w: torch.Tensor, log_decay: torch.Tensor | None = None) -> None:
        self.length, self.size = k.shape[1], 32
        fade = torch.zeros_like(w) if log_decay is None else log_decay
        self.k, w, fade = (self.chunks(t) for t in (k, w[..., None], fade[..., None]))
        fade = fade.squeeze(-1).cumsum(dim=-1)
        visible = torch.ones(self.size, self.size, dtype=torch.bool, device=k.device).tril()
        near = (fade[..., :, None] - fade[..., None, :]).masked_fill(~visible, float("-inf")).exp()
        self.near = near * w.mT
        added = (self.k * w * (fade[..., -1:] - fade).exp()[..., None]).mT @ self.k
        state, states = torch.zeros_like(added[:, :, 0]), []
        for step, kept in zip(added.unbind(2), fade[..., -1].exp().unbind(2)):
            states.append(state)
            state = state * kept[..., None, None] + step
        self.before, self.reach = torch.stack(states, dim=2), fade.exp()[..., None]

    def chunks(self, t: torch.Tensor) -> torch.Tensor:
        """[batch, length, heads, channels] → [batch, heads, chunks, tokens, channels]."""
        t = F.pad(t, (0, 0, 0, 0, 0, -self.length % self.size)).float()
        return rearrange(t, "b (n c) h d -> b h n c d", c=self.size)

    def joined(self, t: torch.Tensor) -> torch.Tensor:
        return rearrange(t, "b h n c d -> b (n c) h d")[:, : self.length]

    def __matmul__(self, p: torch.Tensor) -> torch.Tensor:
        """Each token's matrix times its vector of p: [batch, heads, chunks, tokens, channels]."""
        return ((p @ self.k.mT) * self.near) @ self.k + (p * self.reach) @ self.before

    def trace(self) -> torch.Tensor:
        """Of each token's matrix: [batch, heads, chunks, tokens, 1]."""
        own = self.near @ self.k.square().sum(dim=-1, keepdim=True)
        return own + self.reach * self.before.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None]
'''

HELPERS: Mapping[str, str] = {
    "previous": '''
def previous(x: torch.Tensor) -> torch.Tensor:
    """The token before each token, zeros before the first. x: [batch, length, channels]."""
    return F.pad(x, (0, 0, 1, -1))
''',
    "rotate": '''
def rotate(x: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Turn pairs of channels by an angle that grows with the position (rotary phases).

    x: [batch, length, heads, channels]; frequencies: [heads or 1, pairs] in radians per token.
    Channels beyond 2 * pairs stay as they are.
    """
    pairs = frequencies.shape[-1]
    positions = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
    angles = positions[:, None, None] * frequencies.float()
    cos, sin = angles.cos(), angles.sin()
    first, second, rest = x[..., :pairs].float(), x[..., pairs : 2 * pairs].float(), x[..., 2 * pairs :]
    turned = torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return torch.cat([turned.to(x.dtype), rest], dim=-1)
''',
    "causal_conv": '''
def causal_conv(v: torch.Tensor, weight: torch.Tensor, dilation: int = 1) -> torch.Tensor:
    """Depthwise convolution over time that only looks back.

    v: [batch, length, heads, channels]; weight: [heads * channels, 1, taps], the last tap is the current token.
    """
    heads, taps = v.shape[2], weight.shape[-1]
    x = F.pad(rearrange(v, "b l h d -> b (h d) l"), (dilation * (taps - 1), 0))
    x = F.conv1d(x, weight.to(x.dtype), groups=weight.shape[0], dilation=dilation)
    return rearrange(x, "b (h d) l -> b l h d", h=heads)
''',
    "window_attention": '''
def window_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    window: int,
    present: torch.Tensor | None = None,
    log_forget: torch.Tensor | None = None,
    probe: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax attention over the last `window` tokens; the cost is length * window.

    q, k: [batch, length, heads, key channels]; v: [batch, length, heads, value channels];
    present: [batch, length], 0 where a token is padding; log_forget: [batch, length, heads], log of a forget gate
    whose product between two tokens scales their score down; probe, shaped as q: a second query that adds the weighted
    covariance of its scores and the values, with a minus.
    """
    batch, length, heads, _ = q.shape
    pad = -length % window
    q, k, v = (F.pad(t, (0, 0, 0, 0, 0, pad)) for t in (q, k, v))
    q, k, v = (rearrange(t, "b (n w) h d -> b h n w d", w=window) for t in (q, k, v))
    k, v = (torch.cat([F.pad(t, (0, 0, 0, 0, 1, -1)), t], dim=3) for t in (k, v))  # the block before, then its own

    query = torch.arange(window, device=q.device)[:, None] + window
    key = torch.arange(2 * window, device=q.device)[None, :]
    block = torch.arange(q.shape[2], device=q.device)[:, None, None]
    visible = (key <= query) & (key > query - window) & ((block > 0) | (key >= window))
    scores = (q @ k.transpose(-1, -2)).float()
    if log_forget is not None:
        total = F.pad(log_forget.float().cumsum(dim=1), (0, 0, 0, pad))
        total = rearrange(total, "b (n w) h -> b h n w", w=window)
        before = torch.cat([F.pad(total, (0, 0, 1, -1)), total], dim=-1)
        decay = total[..., :, None] - before[..., None, :]
        scores = scores + decay.masked_fill(~visible, 0.0)
    if present is not None:
        shown = rearrange(F.pad(present.bool(), (0, pad)), "b (n w) -> b 1 n 1 w", w=window)
        shown = torch.cat([F.pad(shown, (0, 0, 0, 0, 1, -1)), shown], dim=-1)
        visible = visible & (shown | (key == query))
    weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1).to(v.dtype)
    if probe is not None:
        probe = rearrange(F.pad(probe, (0, 0, 0, 0, 0, pad)), "b (n w) h d -> b h n w d", w=window)
        probed = probe @ k.transpose(-1, -2)
        weights = weights * (1.0 + (weights * probed).sum(dim=-1, keepdim=True) - probed)
    out = rearrange(weights @ v, "b h n w d -> b (n w) h d")
    return out[:, :length]
''',
    "spans_attention": '''
def spans_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, weights: torch.Tensor, log_decay: torch.Tensor | None = None
) -> torch.Tensor:
    """Linear attention over spans that double in length with their distance; the cost is length * log(length).

    q, k: [batch, length, heads, key channels]; v: [batch, length, heads, value channels]; log_decay: [batch, length,
    heads]; weights: [batch, length, heads, levels]: of the token itself, then of spans of 1, 2, 4, … tokens before it.
    """
    dtype, length, most, size = v.dtype, q.shape[1], weights.shape[-1] - 1, 32
    log_decay = torch.zeros_like(weights[..., 0]) if log_decay is None else log_decay
    parts = (q.shape[-1] ** -0.5 * q, k, v, weights, log_decay[..., None])
    parts = (F.pad(t, (0, 0, 0, 0, 0, -length % size)).float() for t in parts)
    q, k, v, weights, fade = (rearrange(t, "b (n c) h d -> b h n c d", c=size) for t in parts)
    fade = fade.squeeze(-1).cumsum(dim=-1)  # inside each chunk

    place = torch.arange(size, device=q.device)
    level = (1 + (place[:, None] ^ place).float().log2().floor()).clamp(min=0).long()  # 0 on the diagonal
    visible = place[:, None] >= place
    scores = (q @ k.mT) * weights.gather(-1, level.clamp(max=most).expand(*weights.shape[:3], -1, -1))
    scores = scores * (fade[..., :, None] - fade[..., None, :]).masked_fill(~visible, float("-inf")).exp()
    out = scores @ v

    # spans of whole chunks: state s holds chunks s * span to (s + 1) * span - 1; every other one is read, by the next
    chunks, total = q.shape[2], fade[..., -1].double()
    before = F.pad(total.cumsum(dim=-1), (1, 0))  # decay until each chunk begins
    states = (k * (fade[..., -1:] - fade).exp()[..., None]).mT @ v
    order, span, step = torch.arange(chunks, device=q.device), 1, size.bit_length()
    while span < chunks:
        reads = order[(order // span) % 2 == 1]
        begins = reads // span * span
        faded = fade[:, :, reads] + (before[..., reads] - before[..., begins]).float()[..., None]
        scale = weights[:, :, reads, :, min(step, most)] * faded.exp()
        read = (q[:, :, reads] * scale[..., None]) @ states[:, :, begins // span - 1]
        out = out.index_add(2, reads, read)
        pairs = states.shape[2] // 2
        ends = torch.arange(1, pairs + 1, device=q.device) * 2 * span
        kept = (before[..., ends] - before[..., ends - span]).float().exp()[..., None, None]
        states = states[:, :, 0 : 2 * pairs : 2] * kept + states[:, :, 1 : 2 * pairs : 2]
        span, step = 2 * span, step + 1
    return rearrange(out, "b h n c d -> b (n c) h d")[:, :length].to(dtype)
''',
    "read_by_age": '''
def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Pairs of channels, one in each half of x, turned by their angles."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([cos * first - sin * second, sin * first + cos * second], dim=-1)


def read_by_age(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, strength: torch.Tensor, speed: torch.Tensor, **decay
) -> torch.Tensor:
    """Two passes of linear attention: the first scores the ages of what is stored, the second reads them.

    What is written is a Fourier series around the time on the clock; turning the series by the clock makes time an age.
    q, k, v: [batch, length, heads, channels]; strength: [batch, length, heads, 1]; speed of the clock: [batch, length,
    heads], 0 to 1; there is one age fewer than key channels, after which time begins anew.
    """
    pairs = q.shape[-1] // 2
    ages = 2 * pairs - 1
    dtype = torch.promote_types(v.dtype, torch.float32)
    waves = 2.0 * math.pi / ages * torch.arange(pairs, device=q.device, dtype=dtype)
    height = ((1.0 + (waves > 0).to(dtype)) / ages).sqrt()
    now = speed.to(dtype).cumsum(dim=1).remainder(ages)[..., None] * waves
    cos, sin = now.cos(), now.sin()
    written = strength * torch.cat([height * cos, -height * sin], dim=-1)
    slots = torch.arange(ages, device=q.device)[:, None] * waves
    table = torch.cat([height * slots.cos(), height * slots.sin()], dim=-1)
    series, _ = chunk_simple_gla(q=q, k=k, v=written.to(v.dtype), scale=1.0, **decay)
    shares = (turned(series.to(dtype), cos, sin) @ table.T).softmax(dim=-1).to(dtype)
    weights = turned(shares @ table, cos, -sin)
    return chunk_simple_gla(q=weights.to(q.dtype), k=written.to(q.dtype), v=v, scale=1.0, **decay)[0]
''',
    "conjugate_gradients": _COVARIANCE
    + '''

def conjugate_gradients(h: Covariance, q: torch.Tensor, ridge: torch.Tensor, steps: int) -> torch.Tensor:
    """(H + diag(ridge))⁻¹ q of every token, nearly; q: [batch, length, heads, channels], ridge: [heads, channels]."""
    residual, ridge = h.chunks(q), ridge[:, None, None]
    solution, direction = torch.zeros_like(residual), residual
    size = residual.square().sum(dim=-1, keepdim=True)
    for _ in range(steps):
        product = h @ direction + ridge * direction
        along = size / ((direction * product).sum(dim=-1, keepdim=True) + 1e-6)
        solution, residual = solution + along * direction, residual - along * product
        size, before = residual.square().sum(dim=-1, keepdim=True), size
        direction = residual + size / (before + 1e-6) * direction
    return h.joined(solution)
''',
    "chebyshev": _COVARIANCE
    + '''

def chebyshev(h: Covariance, q: torch.Tensor, share: torch.Tensor, steps: int) -> torch.Tensor:
    """(H + ridge)⁻¹ q of every token, nearly, with a ridge of `share` times the mean eigenvalue of H.

    q: [batch, length, heads, channels]; share: [batch, length, heads, 1]. All eigenvalues lie between the ridge and
    the ridge plus H's trace, which is all that the iteration has to know.
    """
    q, trace = h.chunks(q), h.trace()
    ridge = h.chunks(share) * trace / q.shape[-1] + 1e-3
    middle, half = ridge + trace / 2, trace / 2 + 1e-6
    solution, rho = q / middle, half / middle
    step = solution
    for _ in range(steps - 1):
        rho, before = 1.0 / (2.0 * middle / half - rho), rho
        step = rho * before * step + 2.0 * rho / half * (q - h @ solution - ridge * solution)
        solution = solution + step
    return h.joined(solution)
''',
}
