"""Optimiser steps in the training child."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from services.engineer.training.model import LanguageModel, autocast
from services.engineer.training.sizes import Plan, learning_rate

Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


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
        computed = self._compiled_gradients(rows) if self.compiled else None
        losses, auxiliaries = computed or self._gradients(rows)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.grad_clip)
        self.optimiser.step()
        mean = float(torch.stack(auxiliaries).mean()) if auxiliaries else None
        return StepReport(float(torch.stack(losses).sum()), float(norm), mean)

    def _compiled_gradients(self, rows: Tensor) -> tuple[list[Tensor], list[Tensor]] | None:
        """As `_gradients`; None where compiling a forward or backward fails, after which nothing is compiled.

        The random generators are then as they were, so that an audit draws the same noise.
        """
        random, on_gpu = torch.get_rng_state(), torch.cuda.get_rng_state() if self.device == "cuda" else None
        try:
            return self._gradients(rows)
        except Exception as error:  # noqa: BLE001 - compilers raise many types, and the program's own are raised again
            warnings.warn(f"Not compiled: {error}", stacklevel=1)
        self.compiled = False
        for block in self.model.blocks:
            block._compiled_call_impl = None  # nn.Module.compile cannot be undone otherwise
        torch.set_rng_state(random)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu)
        return None

    def _gradients(self, rows: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Compute the gradients of the mean loss; the shares of it and the auxiliary losses by micro-batch."""
        self.optimiser.zero_grad(set_to_none=True)
        losses, auxiliaries = list[Tensor](), list[Tensor]()
        parts = torch.split(rows, self.plan.micro_batch)
        for index, part in enumerate(parts):
            last = index == len(parts) - 1  # which exchanges the gradients
            with nullcontext() if self._parallel is None or last else self._parallel.no_sync():
                with autocast(self.device, self.plan.precision):
                    loss, auxiliary = self._forward(part[:, :-1].to(self.device), part[:, 1:].to(self.device))
                torch.autograd.backward(loss * (len(part) / len(rows)))
            losses.append(loss.detach() * (len(part) / len(rows)))
            auxiliaries += [] if auxiliary is None else [auxiliary.detach().float()]
        return losses, auxiliaries


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
