"""Was a training what its record says? A stretch of it, chosen in secret, is computed again.

The host knows the state before and after the stretch and the batches between. A fresh child, which holds no optimiser,
gives the gradients of each batch at weights that the host sends; the host makes the optimiser's steps itself and
compares where they lead. More steps than one, other batches, another learning rate or another loss lead elsewhere. The
loss that was told for the first batch is compared with the one that the host computes from hidden states.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.engineer.evaluation.reader import open_reader
from services.engineer.training.ports import Array, Sandbox
from services.engineer.training.result import TrainingFailed
from services.engineer.training.session import Job, Stretch, Weights
from services.engineer.training.trainer import learning_rate

TOLERATED_DEVIATION = 0.6
"""Of the stretch's change of weights, relative to the one computed again. Honest programs repeat theirs to rounding;
those that count their calls outside of a checkpoint may differ by some tenths, one more step per step by one."""
TOLERATED_REACH = 1.1
"""The size of the stretch's change, as a multiple of the one computed again. AdamW's steps have a size of their own,
whatever the gradients, so that only more or larger steps lead further."""
TOLERATED_LOSS = 0.1
"""Nats that a told loss may lie below the computed one."""


@dataclass
class AdamW:
    """The optimiser of a scale, in plain numpy, on parameters and moments as the training child saved them."""

    job: Job
    parameters: dict[str, NDArray[np.float32]]
    first: dict[str, NDArray[np.float32]]
    second: dict[str, NDArray[np.float32]]
    steps: dict[str, int]

    @classmethod
    def resumed(cls, job: Job, state: Weights, names: tuple[str, ...]) -> "AdamW":
        """From the arrays of a saved state. Raises TrainingFailed where one of them is missing or misshapen."""
        parameters = {name: _float(state, f"model/{name}") for name in names}
        optimiser = cls(job, parameters, {}, {}, {})
        for name, value in parameters.items():
            told = state.get(f"optimiser/{name}/step")
            optimiser.steps[name] = int(told.astype(float).sum()) if told is not None and told.size == 1 else 0
            for moments, key in ((optimiser.first, "exp_avg"), (optimiser.second, "exp_avg_sq")):
                moment = state.get(f"optimiser/{name}/{key}")
                if moment is not None and moment.shape != value.shape:
                    raise TrainingFailed("malformed", f"The saved moment of {name} has another shape.", {})
                moments[name] = np.zeros_like(value) if moment is None else moment.astype(np.float32)
        return optimiser

    def step(self, number: int, gradients: Weights) -> None:
        """Optimiser step `number` (from 0) with these gradients; parameters without one stay as they are."""
        scale = self.job.scale
        rate = learning_rate(
            number,
            scale.steps,
            peak=scale.learning_rate,
            warmup=scale.warmup,
            decay=scale.decay,
            final=scale.final_rate,
        )
        given = {name: _float(gradients, name, self.parameters[name].shape) for name in gradients}
        norm = float(np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in given.values())))
        clip = min(1.0, scale.grad_clip / (norm + 1e-6))
        for name, gradient in given.items():
            value, gradient = self.parameters[name], gradient * np.float32(clip)
            self.steps[name] += 1
            self.first[name] += (1 - scale.beta1) * (gradient - self.first[name])
            self.second[name] = scale.beta2 * self.second[name] + (1 - scale.beta2) * gradient**2
            first = self.first[name] / (1 - scale.beta1 ** self.steps[name])
            second = np.sqrt(self.second[name] / (1 - scale.beta2 ** self.steps[name])) + scale.epsilon
            decay = rate * scale.weight_decay if value.ndim >= 2 else 0.0
            self.parameters[name] = (value * (1 - decay) - rate * first / second).astype(np.float32)


async def audit(job: Job, sandbox: Sandbox, stretch: Stretch, names: tuple[str, ...]) -> float:
    """The relative deviation of a stretch's change of weights from the one computed again. Raises TrainingFailed."""
    optimiser = AdamW.resumed(job, stretch.before, names)
    weights = {name: array for name, array in stretch.before.items() if name.startswith("model/")}
    async with open_reader(job, sandbox, weights) as reader:
        random = {name: array for name, array in stretch.before.items() if name.startswith("random/")}
        hidden = await reader.hidden(stretch.rows[0][:, :-1], training_from=random)
        loss = float(-reader.score(hidden, stretch.rows[0][:, 1:]).log_probs.mean(dtype=np.float64))
        if not loss <= stretch.losses[0] + TOLERATED_LOSS:
            raise TrainingFailed(
                "forged",
                f"The loss told for step {stretch.start} is {stretch.losses[0]:.4g}, but it is {loss:.4g}.",
                {"step": stretch.start, "told": stretch.losses[0], "computed": loss},
            )
        for offset, rows in enumerate(stretch.rows):
            told: Weights = {f"model/{name}": value for name, value in optimiser.parameters.items()}
            gradients = await reader.gradients(rows, told, random if offset == 0 else {})
            unknown = set(gradients) - set(names)
            if unknown:
                raise TrainingFailed("malformed", f"There is a gradient for {min(unknown)}, no parameter.", {})
            optimiser.step(stretch.start + offset, gradients)
    deviation, reach = _deviation(stretch, optimiser)
    if not (deviation <= TOLERATED_DEVIATION and reach <= TOLERATED_REACH):
        raise TrainingFailed(
            "forged",
            f"From step {stretch.start} on, {len(stretch.rows)} optimiser steps changed the weights otherwise than the "
            f"gradients of their batches do (relative deviation {deviation:.2f}, {TOLERATED_DEVIATION} is tolerated; "
            f"{reach:.2f} times as far, {TOLERATED_REACH} is tolerated): "
            "leave the optimiser alone, and keep what changes while training in buffers.",
            {"step": stretch.start, "steps": len(stretch.rows), "deviation": min(deviation, 1e9),
             "reach": min(reach, 1e9)},
        )  # fmt: skip
    return deviation


def _deviation(stretch: Stretch, optimiser: AdamW) -> tuple[float, float]:
    """How far the told change lies from the computed one, and how far it reaches, in units of the computed one."""
    apart, told, computed = 0.0, 0.0, 0.0
    for name, value in optimiser.parameters.items():
        before = _float(stretch.before, f"model/{name}", value.shape).astype(np.float64)
        after = _float(stretch.after, f"model/{name}", value.shape).astype(np.float64)
        apart += float(((after - value) ** 2).sum())
        told += float(((after - before) ** 2).sum())
        computed += float(((value - before) ** 2).sum())
    if computed == 0.0 or not np.isfinite(told):
        return (0.0, 1.0) if told == 0.0 else (float("inf"), float("inf"))
    return float(np.sqrt(apart / computed)), float(np.sqrt(told / computed))


def _float(arrays: Weights, name: str, shape: tuple[int, ...] | None = None) -> NDArray[np.float32]:
    array: Array | None = arrays.get(name)
    if array is None or array.dtype.kind != "f" or (shape is not None and array.shape != shape):
        raise TrainingFailed("malformed", f"There is no array {name} of the right kind and shape.", {"array": name})
    return array.astype(np.float32)
