"""The baseline zoo: known architectures as programs, measured in every run so that candidates have something to beat.

Each program in `programs/` is text like any candidate's: nothing here imports it, the engineer loads it in its sandbox.
"""

from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

Role = Literal["root", "control", "anchor", "baseline", "reference"]


@dataclass(frozen=True, slots=True)
class Baseline:
    """One known architecture.

    ``root`` is what all differences refer to, ``control`` a trivial change that any discovery has to beat, ``anchor``
    what calibrates the judge, ``reference`` an upper bound that is exempt from the cost check.
    """

    name: str
    title: str
    role: Role
    components: tuple[str, ...]
    source: str
    description: str

    @property
    def program(self) -> str:
        return (files(__package__) / "programs" / f"{self.name}.py").read_text(encoding="utf-8")


_ZOO = (
    Baseline(
        "delta_net", "DeltaNet", "root",
        ("delta-rule", "write-strength", "qk-normalisation", "short-convolution", "output-normalisation"),
        "arXiv:2406.06484",
        "A memory per head that replaces what it says about a key instead of adding to it.",
    ),
    Baseline(
        "gated_delta_net", "Gated DeltaNet", "anchor",
        ("delta-rule", "write-strength", "forget-gate", "qk-normalisation", "short-convolution", "output-gate",
         "output-normalisation"),
        "arXiv:2412.06464",
        "The delta rule in a memory that can also forget, with a gated output.",
    ),
    Baseline(
        "delta_net_value_skip", "DeltaNet with a gated value skip", "control",
        ("delta-rule", "write-strength", "value-residual", "qk-normalisation", "short-convolution",
         "output-normalisation"),
        "the smallest change that helps",
        "DeltaNet whose values also reach the output past the memory, through a gate: what is not better is no discovery.",
    ),
    Baseline(
        "mamba2", "Mamba2-style", "baseline",
        ("selective-ssm", "forget-gate", "short-convolution", "value-residual", "output-gate", "output-normalisation",
         "shared-state"),
        "arXiv:2405.21060",
        "A state-space model with one decay per head and token, a convolution before and a gate behind.",
    ),
    Baseline(
        "gla", "Gated linear attention", "baseline",
        ("additive-state", "forget-gate", "low-rank-projection", "output-gate", "output-normalisation"),
        "arXiv:2312.06635",
        "Every key feature of the memory forgets at a rate of its own, chosen by the token.",
    ),
    Baseline(
        "kda", "Kimi delta attention", "baseline",
        ("delta-rule", "write-strength", "forget-gate", "low-rank-projection", "qk-normalisation", "short-convolution",
         "output-gate", "output-normalisation"),
        "arXiv:2510.26692",
        "The delta rule in a memory whose key features forget at rates of their own.",
    ),
    Baseline(
        "gated_delta_net_2", "Gated DeltaNet-2", "baseline",
        ("delta-rule", "write-strength", "input-gate", "forget-gate", "low-rank-projection", "qk-normalisation",
         "short-convolution", "output-gate", "output-normalisation"),
        "arXiv:2605.22791",
        "A delta rule that erases per key feature and writes per value feature, each with a gate of its own.",
    ),
    Baseline(
        "rwkv7", "RWKV-7-style", "baseline",
        ("delta-rule", "forget-gate", "input-gate", "token-shift", "low-rank-projection", "qk-normalisation",
         "output-gate", "output-normalisation", "value-residual"),
        "arXiv:2503.14456",
        "A delta rule with a rate of its own per key feature that erases one key and writes another.",
    ),
    Baseline(
        "hgrn2", "HGRN2", "baseline",
        ("additive-state", "forget-gate", "input-gate", "output-normalisation"),
        "arXiv:2404.07904",
        "A gated linear recurrence whose key is what its forget gate lets go of.",
    ),
    Baseline(
        "retnet", "RetNet", "baseline",
        ("additive-state", "fixed-decay", "rotary-phase", "output-gate", "output-normalisation"),
        "arXiv:2307.08621",
        "Linear attention with a fixed decay per head and rotary positions.",
    ),
    Baseline(
        "linear_attention", "Linear attention", "baseline",
        ("additive-state", "feature-map", "output-normalisation"),
        "arXiv:2006.16236",
        "A memory that only adds.",
    ),
    Baseline(
        "conv_only", "Gated convolution", "baseline",
        ("short-convolution", "long-convolution", "output-gate", "output-normalisation"),
        "no memory beyond 32 tokens",
        "Causal filters and a gate: what a mixer can do without remembering.",
    ),
    Baseline(
        "window_attention", "Sliding-window attention", "baseline",
        ("local-window-attention", "rotary-phase"),
        "arXiv:2004.05150",
        "Exact attention to the last 64 tokens: what candidates that read by softmax have to beat.",
    ),
    Baseline(
        "gated_delta_net_window", "Gated DeltaNet with a sliding window", "baseline",
        ("delta-rule", "write-strength", "forget-gate", "qk-normalisation", "short-convolution",
         "local-window-attention", "parallel-paths", "output-gate", "output-normalisation"),
        "arXiv:2412.06464, arXiv:2402.18668",
        "A gated delta memory and exact attention to the last 64 tokens, mixed per head and token.",
    ),
    Baseline(
        "softmax_attention", "Softmax attention", "reference",
        ("full-attention", "rotary-phase"),
        "arXiv:1706.03762",
        "Exact attention to every earlier token, at quadratic cost: the upper reference.",
    ),
)  # fmt: skip


def baselines() -> tuple[Baseline, ...]:
    """The whole zoo, the root first."""
    return _ZOO


def baseline(name: str) -> Baseline:
    """One of the zoo. Raises ``ValueError`` listing the names there are."""
    for known in _ZOO:
        if known.name == name:
            return known
    raise ValueError(f"no baseline is called {name!r}; choose one of {', '.join(known.name for known in _ZOO)}")


def is_reference(name: str) -> bool:
    """Whether the baseline of this name is exempt from the limit on cost."""
    return any(known.name == name and known.role == "reference" for known in _ZOO)
