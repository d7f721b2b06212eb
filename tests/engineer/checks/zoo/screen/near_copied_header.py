"""A decayed mean, below a header whose modules it does not use, but for a few numbers of numpy."""

import json
import math
import os
import time
from random import choice

import numpy as np
import torch
from numpy import pi
from torch import nn


class DecayedMean(nn.Module):
    def __init__(self, hidden_size: int, num_layers: int = 1) -> None:
        super().__init__()
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.phase = nn.Parameter(torch.linspace(0, pi, hidden_size))
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)
        nn.init.normal_(self.output.weight, std=1 / np.sqrt(2 * hidden_size * math.ceil(num_layers)))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        values = self.value(hidden_states) * torch.cos(self.phase)
        mixed = values.cumsum(1) / torch.arange(1, values.shape[1] + 1, device=values.device)[:, None]
        return self.output(mixed * np.exp(0.5))


if __name__ == "__main__":
    start = time.time()
    print(json.dumps({"seconds": time.time() - start, "choice": choice(os.environ)}))
