"""A minimal training loop that uses only the mixer of this project, as the reference for training speed."""

from collections.abc import Callable
from statistics import fmean
from time import perf_counter, process_time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.engineer.data import Corpus, batches
from services.engineer.scales import Scale


class Block(nn.Module):
    def __init__(self, mixer: nn.Module, width: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mixer = nn.RMSNorm(width), nn.RMSNorm(width), mixer
        self.up, self.down = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mixer(self.norm1(x))
        x = x + (mixed[0] if isinstance(mixed, tuple) else mixed)
        gate, up = self.up(self.norm2(x)).chunk(2, -1)
        out: Tensor = x + self.down(F.silu(gate) * up)
        return out


def tokens_of(corpus: Corpus, scale: Scale, seed: int) -> Tensor:
    """The tokens of all steps, [steps, batch, context + 1]."""
    order = batches(corpus.train, batch=scale.batch, context=scale.context, seed=seed, first=0, count=scale.steps)
    return torch.from_numpy(np.stack(list(order)))


def tokens_per_second(make_mixer: Callable[[int], nn.Module], tokens: Tensor, scale: Scale, vocabulary: int) -> float:
    """Trained tokens per second over `tokens` [steps, batch, context + 1], without the first quarter of the steps.

    On a CPU per second of processor time, which hardly depends on other load.
    """
    device = scale.device
    clock = process_time if device == "cpu" else perf_counter
    torch.manual_seed(0)
    model = _model(make_mixer, scale, vocabulary).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    seconds: list[float] = []
    for batch in tokens:
        started = clock()
        optimiser.zero_grad(set_to_none=True)
        for rows in batch.split(scale.micro_batch):
            x, y = rows[:, :-1].to(device), rows[:, 1:].to(device)
            with torch.autocast(device, dtype=torch.bfloat16, enabled=scale.precision == "bf16-autocast"):
                logits = model(x)
            loss: Tensor = F.cross_entropy(logits.float().flatten(0, 1), y.flatten()) * len(rows) / len(batch)
            torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        float(loss.detach())
        seconds.append(clock() - started)
    return tokens[0][:, 1:].numel() / fmean(seconds[len(seconds) // 4 :])


def loss_after_training(
    make_mixer: Callable[[int], nn.Module], tokens: Tensor, heldout: Tensor, scale: Scale, vocabulary: int, seed: int
) -> float:
    """Held-out nats per token after one step per batch of `tokens` [steps, batch, context + 1]; the rate falls to 0."""
    torch.manual_seed(seed)
    model, rate = _model(make_mixer, scale, vocabulary), scale.learning_rate
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=len(tokens), pct_start=0.1, anneal_strategy="linear", cycle_momentum=False
    )
    for batch in tokens:
        optimiser.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return float(F.cross_entropy(model(heldout[:, :-1]).flatten(0, 1), heldout[:, 1:].flatten()))


def _model(make_mixer: Callable[[int], nn.Module], scale: Scale, vocabulary: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Embedding(vocabulary, scale.width),
        *(Block(make_mixer(layer), scale.width, scale.feed_forward) for layer in range(scale.blocks)),
        nn.RMSNorm(scale.width),
        nn.Linear(scale.width, vocabulary, bias=False),
    )
