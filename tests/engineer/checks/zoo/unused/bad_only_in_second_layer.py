"""A projection that later layers construct and no layer uses."""

import torch
from torch import nn


class ShiftedGate(nn.Module):
    def __init__(self, hidden_size, layer_idx=0, **kwargs):
        super().__init__()
        self.gate = nn.Linear(hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)
        self.skip = nn.Linear(hidden_size, hidden_size) if layer_idx else None

    def forward(self, hidden_states, **kwargs):
        past = nn.functional.pad(hidden_states, (0, 0, 1, 0))[:, :-1]
        return self.out(torch.sigmoid(self.gate(hidden_states)) * past)
