"""Optimiser steps in the training child."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from services.engineer.scales import Scale
from services.engineer.training.model import LanguageModel, autocast

Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Plan:
    """Settings of the optimiser: the part of a scale that is sent to the training child."""

    steps: int
    micro_batch: int
    learning_rate: float
    final_rate: float
    warmup: float
    decay: float
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float
    grad_clip: float
    precision: str
    compile: bool
    loss_chunk: int = 0

    @classmethod
    def of(cls, scale: Scale) -> "Plan":
        """The plan of a scale."""
        return cls(**{field.name: getattr(scale, field.name) for field in fields(cls)})


def learning_rate(step: int, plan: Plan | Scale) -> float:
    """The learning rate of optimiser step `step` (from 0).

    Linear from peak/n to the peak over the first `warmup` share of the steps, constant, then linear to `final_rate` ×
    peak over the last `decay` share (Hu et al. 2024, arXiv:2404.06395, with linear decay).
    """
    peak, rising, falling = plan.learning_rate, round(plan.warmup * plan.steps), round(plan.decay * plan.steps)
    if step < rising:
        return peak * (step + 1) / rising
    if step < plan.steps - falling:
        return peak
    left = (plan.steps - step) / (falling + 1)
    return peak * (plan.final_rate + (1 - plan.final_rate) * left)


@dataclass(frozen=True)
class StepReport:
    """The loss of one step in nats per token, the gradient norm before clipping, and the auxiliary loss, if any."""

    loss: float
    grad_norm: float
    auxiliary: float | None


class Trainer:
    """AdamW with warm-up–stable–decay, clipping and accumulation over micro-batches."""

    def __init__(
        self, model: LanguageModel, plan: Plan, device: str, parallel: DistributedDataParallel | None = None
    ) -> None:
        """`parallel` is `model`, wrapped for several processes, each of which passes its own rows to `step`."""
        self.model, self.plan, self.device, self._parallel = model, plan, device, parallel
        self.optimiser = adamw(model, plan)
        self.compiled = plan.compile
        self._forward: Forward = model if parallel is None else parallel
        model.loss_chunk = plan.loss_chunk
        if plan.compile:  # block by block: equal blocks are compiled once
            for block in model.blocks:
                block.compile()

    def step(self, step: int, rows: Tensor) -> StepReport:
        """One optimiser step (from 0) on rows [batch, context + 1]."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(step, self.plan)
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        losses, auxiliaries = [], []
        parts = torch.split(rows, self.plan.micro_batch)
        for index, part in enumerate(parts):
            last = index == len(parts) - 1  # which exchanges the gradients
            with nullcontext() if self._parallel is None or last else self._parallel.no_sync():
                loss, auxiliary = self._loss(part[:, :-1].to(self.device), part[:, 1:].to(self.device))
                torch.autograd.backward(loss * (len(part) / len(rows)))
            losses.append(loss.detach() * (len(part) / len(rows)))
            auxiliaries += [] if auxiliary is None else [auxiliary.detach().float()]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.grad_clip)
        self.optimiser.step()
        mean = float(torch.stack(auxiliaries).mean()) if auxiliaries else None
        return StepReport(float(torch.stack(losses).sum()), float(norm), mean)

    def _loss(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        with autocast(self.device, self.plan.precision):
            try:
                return self._forward(inputs, targets)
            except Exception as error:
                if not self.compiled:  # else the program is trained without compilation
                    raise
                warnings.warn(f"Not compiled: {error}", stacklevel=1)
                self.compiled = False
                for block in self.model.blocks:
                    block._compiled_call_impl = None  # nn.Module.compile cannot be undone otherwise
                return self._forward(inputs, targets)


def adamw(model: LanguageModel, plan: Plan) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, not on vectors and scalars (norms, biases, gates).

    A complex parameter counts as a real one with a last axis of two, as everywhere it is stored.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim + p.is_complex() >= 2], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if p.ndim + p.is_complex() < 2], "weight_decay": 0.0},
    ]
    fused = not any(parameter.is_complex() for parameter in parameters)
    betas = (plan.beta1, plan.beta2)
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=betas, eps=plan.epsilon, fused=fused)
