"""A mean of the past, changed along the derivative of a gate in the direction of the token before."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jvp


class DirectionalDerivative(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        before = F.pad(hidden_states, (0, 0, 1, 0))[:, :-1]
        gate, change = jvp(lambda inputs: torch.sigmoid(self.gate(inputs)), (hidden_states,), (before,))
        mean = hidden_states.cumsum(1) / torch.arange(1, hidden_states.shape[1] + 1)[:, None]
        return self.output(gate * mean + change)
