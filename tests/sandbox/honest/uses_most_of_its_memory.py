"""Uses two thirds of its memory, twice, and gives it back."""

import torch

for _ in range(2):
    values = torch.ones(160 << 18)
    del values
