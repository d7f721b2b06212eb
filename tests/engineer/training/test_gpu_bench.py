"""What `make gpu` does on a GPU, as far as it needs none."""

import numpy as np

from bench.gpu import VOCABULARY, Result, synthetic_corpus
from bench.gpu.speed import add_concurrent
from bench.kernels import Comparison
from services.engineer.evaluation.scoring import part_losses
from services.engineer.scales import Scale, load_scale


def test_random_tokens_of_a_large_vocabulary_are_scored() -> None:
    """A result has losses by kind of character."""
    corpus = synthetic_corpus(VOCABULARY, 1 << 12)
    blocks = corpus.heldout[:1000].astype(np.int64).reshape(10, 100)
    parts = part_losses(np.ones((10, 99), dtype=np.float32), blocks, corpus.tokens)

    assert corpus.tokens.vocabulary == VOCABULARY
    assert blocks.max() > 255
    assert all(part.loss == 1.0 for part in parts)


def test_a_precision_that_a_kernel_refuses_is_no_disagreement() -> None:
    """fla's delta rule takes no float32 on a GPU."""
    error = "fla: AssertionError: ChunkDeltaRuleFunction does not support float32. Please use bfloat16."
    refused, broken = (Comparison("delta_net", 1, "fp32", None, None, error=text) for text in (error, "fla: OOM"))

    assert (refused.refused, refused.agrees) == (True, False)
    assert not broken.refused


async def test_trainings_at_once_share_the_memory_and_may_not_fit() -> None:
    """Four trainings at explore need more than 80 GB, which says nothing against one."""
    shares, report = list[int](), Result(left_out=[])

    async def train(scale: Scale) -> Result:
        shares.append(scale.per_device)
        return {"error": "OutOfMemoryError"} if scale.per_device == 4 else {"tokens_per_second": 5}

    await add_concurrent(report, load_scale("explore"), train)

    assert shares == [1, 2, 2, 4, 4, 4, 4]
    assert report["1 at once"]["tokens_per_second"] == 5
    assert report["2 at once"]["tokens_per_second"] == 10
    assert report["left_out"] == ["4 at once, which failed"]
