"""A memory in the weights of a module, which each forward trains on its own input, whatever the optimiser does."""

import torch
from torch import Tensor, nn


class FastMemory(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.memory = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        key = self.key(hidden_states)
        recalled = self.memory(key)
        with torch.no_grad():
            surprise = (hidden_states - recalled).flatten(0, 1).T @ key.flatten(0, 1) / key[..., 0].numel()
            self.memory.weight.data += 0.1 * surprise
        return hidden_states + recalled
