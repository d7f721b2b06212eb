"""Rows of a weight are normalised in place before each use, which changes nothing where no step lies between."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class OnTheSphere(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.decay = nn.Parameter(torch.linspace(-3, 3, hidden_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        with torch.no_grad():
            self.value.weight.copy_(F.normalize(self.value.weight, dim=-1))
        value, decay = self.value(hidden_states), self.decay.sigmoid()
        state, states = torch.zeros_like(value[:, 0]), []
        for current in value.unbind(1):
            state = decay * state + (1 - decay) * current
            states.append(state)
        return torch.stack(states, 1)
