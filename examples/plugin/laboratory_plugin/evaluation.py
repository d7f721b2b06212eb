"""How much surer a model is of a passage that it reads for the second time."""

import numpy as np

from asi_arch.evaluators import Reader, TaskScore

ROWS, HALF = 32, 24


async def copied_text(reader: Reader) -> TaskScore:
    """The gain in the chance of the right token, from the first reading to the second: 0 is none."""
    text = reader.job.corpus.heldout
    starts = reader.job.corpus.random("copied text").integers(0, len(text) - HALF, ROWS)
    passages = np.stack([text[start : start + HALF] for start in starts]).astype(np.int64)
    predictions = await reader.predict(np.concatenate([passages, passages], axis=1))
    chances = np.exp(predictions.log_probs)
    gains = chances[:, HALF:].mean(axis=1) - chances[:, : HALF - 1].mean(axis=1)
    stderr = float(gains.std(ddof=1) / np.sqrt(ROWS))
    return TaskScore("copied_text", "gain", value=float(gains.mean()), stderr=stderr, items=ROWS)
