"""A padded filter by FFT whose decay is not bounded: where it grows instead, each output has its rounding errors."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UnboundedDecay(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int = 4) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.linspace(0.001, 0.3, hidden_size))
        self.inner = nn.Linear(hidden_size, 2 * hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        values, gate = self.inner(hidden_states).chunk(2, -1)
        length = values.shape[1]
        filters = torch.exp(-self.decay * torch.arange(length, device=values.device)[:, None])
        spectrum = torch.fft.rfft(values.float(), 2 * length, dim=1) * torch.fft.rfft(filters, 2 * length, dim=0)
        mixed = torch.fft.irfft(spectrum, 2 * length, dim=1)[:, :length]
        return self.output(mixed.to(gate.dtype) * F.silu(gate))
