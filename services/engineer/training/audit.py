"""Audits a training: a secretly chosen segment of it is recomputed, and the cost of the trained model is measured.

The host knows the states before and after the segment and its batches. A new child without an optimiser computes the
gradients of each batch at weights from the host, and the host applies the optimiser's steps and compares the results.
Additional steps, other batches, another learning rate or another loss give other results. The reported loss of the
first batch is compared with the loss that the host computes from hidden states.
"""

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.engineer.checks.structure import steep_growth
from services.engineer.evaluation.reader import open_reader
from services.engineer.training.result import TrainingFailed
from services.engineer.training.session import Job, Segment, Weights
from services.engineer.training.sizes import learning_rate
from services.sandbox import Array, Sandbox

MAX_DEVIATION = 0.6
"""Limit on the deviation of the change of weights, relative to the recomputed one. Honest programs agree up to
rounding; those with counters outside their checkpoint may deviate by a few tenths, and a doubled step by one."""
MAX_DISTANCE = 1.1
"""Limit on the norm of the change of weights, relative to the recomputed one. The size of AdamW's steps hardly depends
on the gradients, so only additional or larger steps exceed it."""
MAX_LOSS_ERROR = 0.1
"""Limit in nats on the amount by which the reported loss is below the computed one."""

LONGEST = 1 << 14
"""Tokens of the longest row on which the trained model's cost is measured."""
LEAST_SECONDS, SECONDS, STEEP_SECONDS = 0.05, 0.2, 1.0
"""Lengths increase until one takes SECONDS; more where growth looks steep, as other layers hide a mixer's cost. Growth
to less than LEAST_SECONDS is not judged: one operation on each pair of LONGEST positions takes longer."""
REPEATS = 3
"""Measurements of one length, of which the fastest counts, unless it takes SECONDS."""
PREFIX_TOLERANCE = 0.03
"""Limit in nats on the mean change of predictions in a context by what follows it, which bfloat16 rounds otherwise."""


@dataclass
class AdamW:
    """The optimiser of a scale in numpy, on parameters and moments as saved by the training child."""

    job: Job
    parameters: dict[str, NDArray[np.float32]]
    first: dict[str, NDArray[np.float32]]
    second: dict[str, NDArray[np.float32]]
    steps: dict[str, int]

    @classmethod
    def resumed(cls, job: Job, state: Weights, names: tuple[str, ...], steps: int) -> "AdamW":
        """From the state after `steps` steps.

        Raises TrainingFailed if an array is missing or has a wrong shape, and "forged" for moments of no gradients.
        """
        parameters = {name: _float(state, f"model/{name}") for name in names}
        optimiser = cls(job, parameters, {}, {}, {})
        # The largest ratio of a first moment to the root of the second, by Cauchy and Schwarz, and a tenth more.
        beta1, beta2 = job.scale.beta1, job.scale.beta2
        bound = 1.1 * (1 - beta1) * float(np.sqrt(((beta1**2 / beta2) ** np.arange(steps)).sum() / (1 - beta2)))
        for name, value in parameters.items():
            count = state.get(f"optimiser/{name}/step")
            taken = float(count.astype(float).sum()) if count is not None and count.size == 1 else 0.0
            for moments, key in ((optimiser.first, "exp_avg"), (optimiser.second, "exp_avg_sq")):
                moment = state.get(f"optimiser/{name}/{key}")
                if moment is not None and moment.shape != value.shape:
                    raise TrainingFailed("malformed", f"The saved moment of {name} has another shape.", {})
                moments[name] = np.zeros_like(value) if moment is None else moment.astype(np.float32)
            first, second = optimiser.first[name], optimiser.second[name]
            possible = np.isfinite(second) & (second >= 0)
            possible &= np.abs(first) <= bound * np.sqrt(np.maximum(second, 0)) + job.scale.epsilon
            if not (0 <= taken <= steps and taken.is_integer() and possible.all()):
                text = f"The saved moments of {name} cannot result from {steps} steps of AdamW."
                raise TrainingFailed("forged", text, {"parameter": name, "step": steps})
            optimiser.steps[name] = int(taken)
        return optimiser

    def weights(self) -> Weights:
        """The parameters, named as in a saved state."""
        return {f"model/{name}": value for name, value in self.parameters.items()}

    def step(self, number: int, gradients: Weights) -> None:
        """Optimiser step `number` (from 0) with these gradients; parameters without a gradient do not change.

        Raises TrainingFailed if an array is no parameter's or has a wrong shape, or the gradient is not finite.
        """
        if unknown := gradients.keys() - self.parameters.keys():
            raise TrainingFailed("malformed", f"There is a gradient for {min(unknown)}, no parameter.", {})
        scale, rate = self.job.scale, learning_rate(number, self.job.scale)
        arrays = {name: _float(gradients, name, self.parameters[name].shape) for name in gradients}
        norm = float(np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in arrays.values())))
        if not np.isfinite(norm):
            raise TrainingFailed("not-finite", f"The gradient is not finite at step {number}.", {"step": number})
        clip = min(1.0, scale.grad_clip / (norm + 1e-6))
        for name, gradient in arrays.items():
            value, gradient = self.parameters[name], gradient * np.float32(clip)
            self.steps[name] += 1
            self.first[name] += (1 - scale.beta1) * (gradient - self.first[name])
            self.second[name] = scale.beta2 * self.second[name] + (1 - scale.beta2) * gradient**2
            first = self.first[name] / (1 - scale.beta1 ** self.steps[name])
            second = np.sqrt(self.second[name] / (1 - scale.beta2 ** self.steps[name])) + scale.epsilon
            decay = rate * scale.weight_decay if value.ndim >= 2 else 0.0
            self.parameters[name] = (value * (1 - decay) - rate * first / second).astype(np.float32)


async def audit(job: Job, sandbox: Sandbox, segment: Segment, names: tuple[str, ...]) -> float:
    """The deviation of a segment's change of weights, relative to the recomputed one. Raises TrainingFailed."""
    start, losses = segment.start, segment.losses
    optimiser = await asyncio.to_thread(AdamW.resumed, job, segment.before, names, start)
    weights = {name: array for name, array in segment.before.items() if name.startswith("model/")}
    async with open_reader(job, sandbox, weights) as reader:
        random = {name: array for name, array in segment.before.items() if name.startswith("random/")}
        hidden = await reader.hidden(segment.rows[0][:, :-1], training_from=random)
        predictions = await asyncio.to_thread(reader.score, hidden, segment.rows[0][:, 1:])
        loss = float(-predictions.log_probs.mean(dtype=np.float64))
        if not loss <= losses[0] + MAX_LOSS_ERROR:
            raise TrainingFailed(
                "forged",
                f"The reported loss at step {start} is {losses[0]:.4g}, but the recomputed one is {loss:.4g}.",
                {"step": start, "told": losses[0], "computed": loss},
            )
        for offset, rows in enumerate(segment.rows):
            gradients = await reader.gradients(rows, optimiser.weights(), random if offset == 0 else {})
            await asyncio.to_thread(optimiser.step, start + offset, gradients)
    deviation, distance = await asyncio.to_thread(_deviation, segment, optimiser)
    if not (deviation <= MAX_DEVIATION and distance <= MAX_DISTANCE):
        raise TrainingFailed(
            "forged",
            f"From step {start} on, {len(segment.rows)} optimiser steps changed the weights otherwise than the "
            f"gradients of their batches do (relative deviation {deviation:.2f}, {MAX_DEVIATION} is tolerated; "
            f"{distance:.2f} times as far, {MAX_DISTANCE} is tolerated): "
            "leave the optimiser alone, change no parameter in forward, and register all that the output depends on: "
            "parameters, buffers and modules, those in a list as nn.ParameterList or nn.ModuleList.",
            {"step": start, "steps": len(segment.rows), "deviation": min(deviation, 1e9), "reach": min(distance, 1e9)},
        )
    return deviation


async def require_linear(job: Job, sandbox: Sandbox, weights: Weights) -> None:
    """Raises TrainingFailed if the trained model's CPU time grows faster than in proportion to the length.

    A program may compute otherwise in its check than with trained weights, after many steps, or on text. Therefore the
    time is measured at multiples of the context, and the predictions must be those of the context alone. Not on a GPU,
    whose work takes no CPU time, and not beyond LONGEST tokens or eight contexts.
    """
    scale, train = job.scale, job.corpus.train
    if scale.device != "cpu":
        return
    longest = max(LONGEST, 8 * scale.context)
    lengths = [scale.context * 2**power for power in range(1, 15) if scale.context * 2**power <= longest]
    start = int(job.corpus.random(f"cost {job.identity}").integers(max(1, len(train) - longest)))
    tokens = np.resize(train[start : start + longest], (1, longest)).astype(np.int64)
    async with open_reader(job, sandbox, weights) as reader:

        async def measure(length: int) -> float | None:
            fastest = float("inf")
            for _ in range(REPEATS):
                before = reader.child.processor_seconds()
                try:
                    await reader.hidden(tokens[:, :length])
                except TrainingFailed:
                    if length in lengths[:3]:
                        raise
                    return None  # tables for a greatest length are no cost
                fastest = min(fastest, reader.child.processor_seconds() - before)
                if fastest > SECONDS:
                    break
            return fastest

        context, predictions = tokens[:, : scale.context + 1], list[NDArray[np.float32]]()
        for length in (scale.context, lengths[0]):
            hidden = (await reader.hidden(tokens[:, :length]))[:, : scale.context]
            predictions.append(reader.score(hidden, context[:, 1:]).log_probs)
        steep = await steep_growth(measure, lengths, LEAST_SECONDS, SECONDS, STEEP_SECONDS)
    change = float(np.abs(predictions[1] - predictions[0]).mean(dtype=np.float64))
    if change > PREFIX_TOLERANCE:
        text = f"The predictions in a context change by {change:.3f} nats if more text follows it: read no length."
        raise TrainingFailed("superlinear", text, {"mean_change_nats": change})
    if steep:
        text = f"With trained weights, {steep[0]}: the cost must grow in proportion to the length, as in the check."
        raise TrainingFailed("superlinear", text, steep[1])


def _deviation(segment: Segment, optimiser: AdamW) -> tuple[float, float]:
    """The distances of the reported weights from the recomputed ones and from the start, by the recomputed change."""
    error, reported, recomputed = 0.0, 0.0, 0.0
    for name, value in optimiser.parameters.items():
        before = _float(segment.before, f"model/{name}", value.shape).astype(np.float64)
        after = _float(segment.after, f"model/{name}", value.shape).astype(np.float64)
        error += _squared_distance(after, value)
        reported += _squared_distance(after, before)
        recomputed += _squared_distance(value, before)
    if recomputed == 0.0 or not np.isfinite(reported):
        return (0.0, 1.0) if reported == 0.0 else (float("inf"), float("inf"))
    return float(np.sqrt(error / recomputed)), float(np.sqrt(reported / recomputed))


def _squared_distance(left: NDArray[np.floating], right: NDArray[np.floating]) -> float:
    """The sum of squared differences; equal infinities, as of a mask, do not differ."""
    differs = left != right
    return float(((left[differs] - right[differs]) ** 2).sum())


def _float(arrays: Weights, name: str, shape: tuple[int, ...] | None = None) -> NDArray[np.float32]:
    array: Array | None = arrays.get(name)
    if array is None or array.dtype.kind not in "fiub" or (shape is not None and array.shape != shape):
        raise TrainingFailed("malformed", f"There is no array {name} of the right kind and shape.", {"array": name})
    return array.astype(np.float32)
