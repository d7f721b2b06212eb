"""What all parts of the measurements on a GPU share: device, scales, a corpus. `python -m bench.gpu` runs them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from services.engineer.data import Corpus
from services.engineer.data.corpus import ByteTokens, fingerprint_of
from services.engineer.scales import Scale, load_scale
from services.engineer.training.compiled import CompileCache
from services.engineer.training.session import Weights

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12, "L40S": 362e12,
              "4090": 165e12}  # fmt: skip
"""Peak of dense bfloat16 by a part of the device's name, from the vendor's data sheets."""
VOCABULARY = 50_257
Result = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """The context of all parts."""

    device: str
    results: Mapping[str, Result]
    folder: Path
    """Of compiled and tuned kernels."""
    mps: Path | None = None

    @property
    def gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"

    def kernels(self, name: str) -> CompileCache:
        """The cache of the kernels of one program of the zoo, for all its children."""
        return CompileCache(self.folder / f"{name}.tar")

    def scale(self, name: str = "explore", **overrides: object) -> Scale:
        """The scale on a GPU; on a CPU one that takes seconds. Without tasks and intermediate evaluations."""
        usual: dict[str, object] = {"evaluations": 0, "tasks": "", "corpus": "python-source", "precision": "fp32"}
        if self.gpu:
            usual |= {"device": "cuda", "precision": "bf16-autocast"}
        else:
            small = {
                "width": 32,
                "heads": 2,
                "feed_forward": 64,
                "context": 64,
                "blocks": 2,
                "batch": 4,
                "micro_batch": 4,
            }
            usual |= {"device": "cpu", **small, "compile": "false", "threads": 1}
            overrides = {key: value for key, value in overrides.items() if key not in (*small, "compile")}
        usual |= {"heldout_blocks": 8, "check_truncations": 4, "substitute": "false", **overrides}
        return load_scale(name, {key: str(value) for key, value in usual.items()})


class _Numbers(ByteTokens):
    """Tokens of any vocabulary, of which a text needs to exist only."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def decode(self, tokens: Sequence[int]) -> str:
        return super().decode([token % 256 for token in tokens])


def synthetic_corpus(vocabulary: int, tokens: int) -> Corpus:
    """Random tokens with the frequencies of words, for measurements of speed."""
    drawn = np.minimum(np.random.default_rng(1).zipf(1.2, tokens), vocabulary - 1).astype(np.uint16)
    train, heldout, verification = drawn[: tokens // 2], drawn[tokens // 2 : tokens * 3 // 4], drawn[tokens * 3 // 4 :]
    fingerprint = fingerprint_of(train, heldout, verification)
    return Corpus("synthetic", _Numbers(vocabulary), train, heldout, verification, 4.0, fingerprint, b"bench")


async def unscored(weights: Weights, step: int) -> float:  # noqa: ARG001
    """For sessions without evaluations."""
    raise AssertionError("the scales of this benchmark have no evaluations")
