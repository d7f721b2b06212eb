"""A gated mean of the past, whose scale is kept with the graph that computed it."""

import torch
from torch import Tensor, nn


class CarriedState(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.gate = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, hidden_states: Tensor) -> Tensor:
        values = self.value(hidden_states)
        if self.training:
            self.scale = 0.99 * self.scale + 0.01 * self.value.weight.pow(2).mean().sqrt()
        mixed = values.cumsum(1) / torch.arange(1, values.shape[1] + 1, device=values.device)[:, None]
        return self.output(mixed * torch.sigmoid(self.gate(hidden_states)) * self.scale)
